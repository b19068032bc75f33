"""Layers that the architectures share. All tensors are packed: the first dimension runs over the step's tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.kernels.norms import add_layer_norm, add_rms_norm


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
        return F.linear(x, self.weight, self.bias)


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
                views = {"weight": self.weight[start : start + rows]}
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


class Embedding(nn.Module):
    """Rows of a table: token ids or positions [tokens] -> [tokens, size]."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = parameter(rows, size)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)
