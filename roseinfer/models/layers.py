"""Layers that the architectures share. All tensors are packed: the first dimension runs over the step's tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.kernels import activations
from roseinfer.kernels.activations import Activation
from roseinfer.kernels.cpu import native
from roseinfer.kernels.linear.packed_weight import PackedTable, PackedWeight
from roseinfer.kernels.linear.packing import Packing, pack, pack_groups
from roseinfer.kernels.linear.quantized_linear import Groups
from roseinfer.kernels.linear.skinny_linear import fused_linear, skinny_linear
from roseinfer.kernels.norms import Norm, add_layer_norm, add_rms_norm, add_rms_norm_mirrored

_FEW_ROWS = 16
"""Rows of a step up to which operations cost a CPU more than what they compute."""


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialized weight on the current default device, in the current default dtype."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """y = x W^T + b, with W [out_features, in_features].

    `weight` is what a loader fills. On a CPU it may then be let go for a packed form of it: `pack`, `keep`.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
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
        norm: "RMSNorm | LayerNorm",
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

    def part(self, name: str) -> dict[str, Tensor]:
        """The rows of one projection, under the names that checkpoints use: weight and, where there is one, bias."""
        start = 0
        for part, rows in self.parts.items():
            if part == name:
                views = {"weight": self.matrix[start : start + rows]}
                if self.bias is not None:
                    views["bias"] = self.bias[start : start + rows]
                return views
            start += rows
        raise KeyError(name)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.eps = eps
        self._mirrored: Tensor | None = None

    def pack(self) -> None:
        """Bring a loaded weight into the form that is fastest on a CPU, where no kernel of its own is made for it."""
        if self.weight.device.type == "cpu" and self.weight.dtype == torch.bfloat16 and not native.is_loaded():
            self._mirrored = torch.cat((self.weight, self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add x [tokens, size] to the residual stream, None at its start; the norm of the sum, and the sum."""
        if self._mirrored is not None and len(x) <= _FEW_ROWS:
            return add_rms_norm_mirrored(x, residual, self._mirrored, self.eps)
        return add_rms_norm(x, residual, self.weight, self.eps)

    @property
    def description(self) -> Norm:
        """For kernels that have a norm inside."""
        return Norm(self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al., 2016)."""

    def __init__(self, size: int, eps: float, *, bias: bool) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.bias = parameter(size) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add x [tokens, size] to the residual stream, None at its start; the norm of the sum, and the sum."""
        return add_layer_norm(x, residual, self.weight, self.bias, self.eps)

    @property
    def description(self) -> Norm:
        """For kernels that have a norm inside."""
        return Norm(self.weight, self.eps, self.bias, centered=True)


class Embedding(nn.Module):
    """Rows of a table: token ids or positions [tokens] -> [tokens, size].

    The table has up to 63 rows more than are used: as a head, a matrix of an odd number of rows would take a GPU
    several times as long.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.rows = rows
        self.table = parameter(-(-rows // 64) * 64, size)
        self.packed: PackedWeight | None = None

    @property
    def weight(self) -> Tensor:
        """The rows that are used, [rows, size]: a view, or a copy of a packed table."""
        return self.packed.values(self.table.dtype) if isinstance(self.packed, PackedTable) else self.table[: self.rows]

    @property
    def weight_bytes(self) -> int:
        """What a product with the table as a head reads."""
        return self.weight.nbytes if self.packed is None else self.packed.nbytes

    @property
    def row_bytes(self) -> int:
        """What looking up a token reads."""
        if isinstance(self.packed, PackedTable):
            return self.packed.row_bytes
        return self.table.shape[1] * self.table.itemsize

    def forward(self, ids: Tensor) -> Tensor:
        if isinstance(self.packed, PackedTable):
            return self.packed.rows(ids, self.table.dtype)
        return F.embedding(ids, self.table)

    def logits(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """The table as a head: [tokens, size] -> [tokens, rows]."""
        if self.packed is not None:
            return self.packed.linear(hidden, bias)
        logits = skinny_linear(hidden, self.table if hidden.is_cuda else self.weight)[:, : self.rows]
        return logits if bias is None else logits + bias

    def pack_head(self, packing: Packing = "none") -> None:
        """Bring a loaded table, which is the head as well, into the form that the CPU's kernels read.

        Quantized, it is so to 8 bits always. Where the form has rows to look up, the plain table is let go.
        """
        if self.packed is None:
            self.packed = pack(self.weight, "none" if packing == "none" else "int8", self.rows)
            if isinstance(self.packed, PackedTable):
                self.table = nn.Parameter(self.table.new_empty(0, self.table.shape[1]), requires_grad=False)
