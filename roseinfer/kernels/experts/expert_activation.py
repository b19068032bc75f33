"""The activation between an expert's two products, inside kernels."""

from roseinfer.kernels.activations import activate
from roseinfer.kernels.runtime import tl, triton


@triton.jit
def gated(gate, up, KIND: tl.constexpr):
    """Apply the gated activation that KIND names to float32 values."""
    return activate(gate, KIND) * up
