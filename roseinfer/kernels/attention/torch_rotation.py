"""Rotary positions in torch operations, for backends without a fused kernel. Layout: half-split, as in GPT-NeoX."""

import torch
from torch import Tensor


def rotation_at(table: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotation at positions [tokens]: cosines and signed sines, [tokens, 1, head_dim] each.

    `table` holds cosines, then sines per position: [max_positions, head_dim].
    """
    cos, sin = table[positions].unsqueeze(1).chunk(2, dim=-1)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each pair (x[i], x[i + head_dim / 2]) of [tokens, heads, head_dim] by its token's angle."""
    cos, sin = rotation
    # Rolling by half a head pairs the elements: three operations, where slices of halves need eight.
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
