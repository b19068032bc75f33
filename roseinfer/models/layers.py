"""Layers that the architectures share. All tensors are packed: the first dimension runs over the step's tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class LayerNorm(nn.Module):
    """Layer normalization with weight and bias (Ba et al., 2016)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = parameter(size)
        self.bias = parameter(size)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)


class Embedding(nn.Module):
    """Rows of a table: token ids or positions [tokens] -> [tokens, size]."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = parameter(rows, size)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class RotaryEmbedding(nn.Module):
    """Rotary position embedding in the half-split layout (Su et al., 2021; rotate_half as in GPT-NeoX).

    Angles are computed in float32 whatever the model's dtype: bfloat16 cannot tell neighbouring positions apart.
    """

    def __init__(self, head_dim: int, max_positions: int, theta: float) -> None:
        super().__init__()
        dims = torch.arange(0, head_dim, 2, dtype=torch.float32)
        inverse_frequencies = 1.0 / theta ** (dims / head_dim)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), inverse_frequencies)
        table = torch.cat((angles.cos(), angles.sin()), dim=-1)  # [max_positions, head_dim]
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)
        self.table: Tensor

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for a step's positions, shared by all layers: two of [tokens, 1, head_dim / 2]."""
        cos, sin = self.table[positions].unsqueeze(1).chunk(2, dim=-1)
        return cos, sin


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) of [tokens, heads, head_dim] by its position's angle."""
    cos, sin = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
