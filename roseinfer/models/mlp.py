"""The MLPs of decoder layers. Each runs after its layer's norm and adds to the residual stream."""

from typing import Literal

from torch import Tensor, nn

from roseinfer.kernels.linear.weight_form import NormBefore
from roseinfer.models.linear import FusedLinear, Linear
from roseinfer.models.weight_map import WeightMap, compose


class GatedMLP(nn.Module):
    """down(SiLU(gate x) * (up x)): SwiGLU (Shazeer, 2020), with gate and up as one matrix product."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool) -> None:
        super().__init__()
        parts = {"gate_proj": intermediate_size, "up_proj": intermediate_size}
        self.gate_up = FusedLinear(hidden_size, parts, bias=bias)
        self.down = Linear(intermediate_size, hidden_size, bias=bias)

    def after_norm(self, norm: NormBefore, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Apply the MLP to norm(hidden + residual).

        Takes and returns (hidden, residual), [tokens, hidden_size] each: the previous block's output, not yet added,
        and the residual stream. If residual is None, hidden already is the stream.
        """
        gated, stream = self.gate_up.after_norm(norm, hidden, residual, "silu_and_mul")
        return self.down.onto(gated, stream)

    def weight_map(self) -> WeightMap:
        return compose({"": self.gate_up, "down_proj": self.down})


class MLP(nn.Module):
    """down(GELU(up x)): GPT-2's MLP, whose matrices are stored as [in_features, out_features]."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Literal["gelu", "gelu_tanh"], *, bias: bool
    ) -> None:
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size, bias=bias, stored_transposed=True)
        self.activation = activation
        self.down = Linear(intermediate_size, hidden_size, bias=bias, stored_transposed=True)

    def after_norm(self, norm: NormBefore, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Apply the MLP to norm(hidden + residual). Takes and returns both tensors as `GatedMLP.after_norm` does."""
        active, stream = self.up.after_norm(norm, hidden, residual, self.activation)
        return self.down.onto(active, stream)

    def weight_map(self) -> WeightMap:
        return compose({"c_fc": self.up, "c_proj": self.down})
