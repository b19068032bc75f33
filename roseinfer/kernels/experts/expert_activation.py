"""The activation between an expert's two products, inside kernels."""

from roseinfer.kernels.activations import activate
from roseinfer.kernels.runtime import tl, triton


@triton.jit
def gated(gate, up, KIND: tl.constexpr):
    """Apply the gated activation that KIND names to float32 values."""
    if KIND == "clamped_swiglu_and_mul":
        gate = tl.minimum(gate, 7.0)
        return gate * tl.sigmoid(1.702 * gate) * (tl.minimum(tl.maximum(up, -7.0), 7.0) + 1.0)
    return activate(gate, KIND) * up
