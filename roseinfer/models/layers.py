"""Layers that the architectures share. All tensors are packed: the first dimension runs over the step's tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.kernels import activations
from roseinfer.kernels.activations import Activation
from roseinfer.kernels.norms import Norm, add_layer_norm, add_rms_norm
from roseinfer.kernels.packed_linear import pack, packable, packed_linear, unpacked
from roseinfer.kernels.skinny_linear import fused_tiles, skinny_linear


def parameter(*shape: int) -> nn.Parameter:
    """An uninitialized weight on the current default device, in the current default dtype."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """y = x W^T + b, with W [out_features, in_features]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = parameter(out_features, in_features)
        self.bias = parameter(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return packed_linear(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)

    def pack(self) -> None:
        """Lay a loaded weight out as the CPU's kernels read it, where that is faster; the plain one is let go."""
        if packable(self.weight):
            self.weight = nn.Parameter(pack(self.weight), requires_grad=False)

    @property
    def matrix(self) -> Tensor:
        """The weight [out_features, in_features] in plain order: itself, or a copy of a packed one."""
        return unpacked(self.weight)

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
            inside = norm.description
            if fused_tiles(hidden, self.weight, self.bias, norm=inside, activation=activation) is not None:
                return skinny_linear(hidden, self.weight, self.bias, norm=inside, activation=activation), hidden
        normed, stream = norm.after(hidden, residual)
        return self.into(normed, activation), stream

    def onto(self, x: Tensor, stream: Tensor) -> tuple[Tensor, Tensor | None]:
        """x W^T + b and the stream that it is to be added to; or, where one kernel does it, their sum and None."""
        if x.is_cuda and fused_tiles(x, self.weight, self.bias, residual=stream) is not None:
            return skinny_linear(x, self.weight, self.bias, residual=stream), None
        return self.into(x), stream


class FusedLinear(Linear):
    """Several projections of one input as one matrix product; `parts` are views into it, in order."""

    def __init__(self, in_features: int, parts: dict[str, int], *, bias: bool) -> None:
        super().__init__(in_features, sum(parts.values()), bias=bias)
        self.parts = parts

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

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)

    def after(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add x [tokens, size] to the residual stream, None at its start; the norm of the sum, and the sum."""
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
        self._packed_head: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The rows that are used, [rows, size]."""
        return self.table[: self.rows]

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.table)

    def logits(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """The table as a head: [tokens, size] -> [tokens, rows]."""
        if self._packed_head is not None:
            return packed_linear(hidden, self._packed_head, bias)
        logits = skinny_linear(hidden, self.table if hidden.is_cuda else self.weight)[:, : self.rows]
        return logits if bias is None else logits + bias

    def pack_head(self) -> None:
        """Keep a second copy of a loaded table, laid out as the CPU's kernels read a head, where that is faster."""
        if packable(self.weight):
            self._packed_head = pack(self.weight)
