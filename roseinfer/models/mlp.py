"""The MLPs of decoder layers. Each runs after its layer's norm and adds to the residual stream."""

from typing import Literal

from torch import Tensor, nn

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.linear.weight_form import NormBefore
from roseinfer.models.activation_names import ActivationName
from roseinfer.models.linear import FusedLinear, Linear
from roseinfer.models.weight_map import WeightMap, compose

GATED: dict[ActivationName, Activation] = {
    "silu": "silu_and_mul",
    "gelu_tanh": "gelu_tanh_and_mul",
    "gelu": "gelu_and_mul",
    "clamped_swiglu": "clamped_swiglu_and_mul",
}
"""Activations of gated MLPs by the name of the gate's activation."""


class GatedMLP(nn.Module):
    """down(activation(gate x) * (up x)) (Shazeer, 2020), with gate and up as one matrix product."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: ActivationName = "silu",
        *,
        bias: bool,
        stored_as: str | None = None,
    ) -> None:
        """`stored_as` is the name of the tensor that holds gate and up in checkpoints; None: each has its own."""
        super().__init__()
        parts = {"gate_proj": intermediate_size, "up_proj": intermediate_size}
        self.gate_up = FusedLinear(hidden_size, parts, bias=bias, stored_as=stored_as)
        self.activation = GATED[activation]
        self.down = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to x, [tokens, hidden_size]."""
        return self.down.linear(self.gate_up.linear(x, self.activation))

    def after_norm(self, norm: NormBefore, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Apply the MLP to norm(hidden + residual).

        Takes and returns (hidden, residual), [tokens, hidden_size] each: the previous block's output, not yet added,
        and the residual stream. If residual is None, hidden already is the stream.
        """
        gated, stream = self.gate_up.after_norm(norm, hidden, residual, self.activation)
        return self.down.onto(gated, stream)

    def weight_map(self) -> WeightMap:
        return compose({"": self.gate_up, "down_proj": self.down})


class MLP(nn.Module):
    """down(GELU(up x))."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Literal["gelu", "gelu_tanh"],
        *,
        bias: bool,
        names: tuple[str, str] = ("up_proj", "down_proj"),
        stored_transposed: bool = False,
    ) -> None:
        """`names` are those of up and down in checkpoints; `stored_transposed`: as [in_features, out_features]."""
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size, bias=bias, stored_transposed=stored_transposed)
        self.activation = activation
        self.down = Linear(intermediate_size, hidden_size, bias=bias, stored_transposed=stored_transposed)
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to x, [tokens, hidden_size]."""
        return self.down.linear(self.up.linear(x, self.activation))

    def after_norm(self, norm: NormBefore, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Apply the MLP to norm(hidden + residual). Takes and returns both tensors as `GatedMLP.after_norm` does."""
        active, stream = self.up.after_norm(norm, hidden, residual, self.activation)
        return self.down.onto(active, stream)

    def weight_map(self) -> WeightMap:
        return compose(dict(zip(self.names, (self.up, self.down), strict=True)))
