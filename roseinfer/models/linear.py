"""Linear layers over packed tokens."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.kernels import activations
from roseinfer.kernels.activations import Activation
from roseinfer.kernels.linear.packed_weight import PackedWeight
from roseinfer.kernels.linear.packing import Packing, pack, pack_groups
from roseinfer.kernels.linear.quantized_linear import Groups
from roseinfer.kernels.linear.skinny_linear import fused_linear, skinny_linear
from roseinfer.models.norm_layers import LayerNorm, RMSNorm
from roseinfer.models.parameter import parameter
from roseinfer.models.weight_map import WeightMap, WeightSlot


class Linear(nn.Module):
    """y = x W^T + b, with W [out_features, in_features].

    `weight` is what a loader fills. On a CPU it may then be let go for a packed form of it: `pack`, `keep`.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool, stored_transposed: bool = False) -> None:
        """With `stored_transposed`, checkpoints hold the matrix as [in_features, out_features]."""
        super().__init__()
        self.stored_transposed = stored_transposed
        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None
        self.unit = out_features
        """Outputs that its parts are multiples of."""
        self.packed: PackedWeight | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return self.packed.linear(x, self.bias)
        return F.linear(x, self.weight, self.bias)

    def pack(self, packing: Packing = "none") -> None:
        """Bring a loaded weight into the form that the CPU's kernels read; the plain one is let go.

        A weight that is packed already stays as it is.
        """
        if self.packed is None:
            self._replace(pack(self.weight, packing, self.unit))

    def keep(self, groups: Groups) -> None:
        """Take a weight that comes in 4 bits as it is."""
        self._replace(pack_groups(groups, self.unit))

    def _replace(self, packed: PackedWeight | None) -> None:
        if packed is not None:
            self.packed = packed
            self.weight = nn.Parameter(self.weight.new_empty(0, self.weight.shape[1]), requires_grad=False)

    @property
    def matrix(self) -> Tensor:
        """The weight [out_features, in_features] in plain order: itself, or a copy of a packed one."""
        return self.weight if self.packed is None else self.packed.values(self.weight.dtype)

    def weight_map(self) -> WeightMap:
        slots = {"weight": WeightSlot(self, "matrix", transposed=self.stored_transposed)}
        if self.bias is not None:
            slots["bias"] = WeightSlot(self, "bias")
        return slots

    @property
    def weight_bytes(self) -> int:
        """What a product reads, without the bias."""
        return self.weight.nbytes if self.packed is None else self.packed.nbytes

    def into(self, x: Tensor, activation: Activation | None = None) -> Tensor:
        """activation(x W^T + b)."""
        if x.is_cuda:
            return skinny_linear(x, self.weight, self.bias, activation=activation)
        out: Tensor = self(x)
        if activation is not None:
            out = getattr(activations, activation)(out)
        return out

    def after_norm(
        self,
        norm: RMSNorm | LayerNorm,
        hidden: Tensor,
        residual: Tensor | None,
        activation: Activation | None = None,
    ) -> tuple[Tensor, Tensor]:
        """activation(norm(stream) W^T + b), and the stream: hidden + residual, or hidden if that is None.

        On a GPU, few rows take one kernel.
        """
        if residual is None and hidden.is_cuda:
            out = fused_linear(hidden, self.weight, self.bias, norm=norm.description, activation=activation)
            if out is not None:
                return out, hidden
        normed, stream = norm.after(hidden, residual)
        return self.into(normed, activation), stream

    def onto(self, x: Tensor, stream: Tensor) -> tuple[Tensor, Tensor | None]:
        """x W^T + b and the stream that it is to be added to; or, where one kernel does it, their sum and None."""
        added = fused_linear(x, self.weight, self.bias, residual=stream) if x.is_cuda else None
        return (self.into(x), stream) if added is None else (added, None)


class FusedLinear(Linear):
    """Several projections of one input as one matrix product; `parts` are views into it, in order."""

    def __init__(self, in_features: int, parts: dict[str, int], *, bias: bool) -> None:
        super().__init__(in_features, sum(parts.values()), bias=bias)
        self.parts = parts
        self.unit = math.gcd(*parts.values())

    def weight_map(self) -> WeightMap:
        slots, first_row = {}, 0
        for name, rows in self.parts.items():
            slots[f"{name}.weight"] = WeightSlot(self, "matrix", first_row, rows)
            if self.bias is not None:
                slots[f"{name}.bias"] = WeightSlot(self, "bias", first_row, rows)
            first_row += rows
        return slots
