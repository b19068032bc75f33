"""The order of the elements of query and key heads.

Kernels rotate the pairs (x[i], x[i + head_dim / 2]) of a head. Models that pair neighbors, or rotate only part of a
head, are loaded with the rows of their query and key projections in another order. Scores stay the same, since queries
and keys are reordered alike.
"""

import torch
from torch import Tensor

from roseinfer.models.dialect import Transform
from roseinfer.models.model_config import ModelConfig


def reordered_projection(name: str, config: ModelConfig, *, interleaved: bool) -> Transform | None:
    """Return the transform of the rows of `q_proj`, `k_proj` or the fused `qkv_proj` to where kernels rotate them.

    None for other modules, and for heads that are stored as kernels rotate them: in full, with pairs half a head apart.
    """
    rope = next((spec.rope for spec in config.attention_specs if spec.rope is not None), None)
    if rope is None or not (interleaved or rope.rotary_dim):
        return None
    query, key = (
        reordered_heads(heads, config.head_dim, rope.rotary_dim, interleaved=interleaved)
        for heads in (config.num_heads, config.num_kv_heads)
    )
    sizes = [heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]

    def fused(rows: Tensor) -> Tensor:
        q, k, v = torch.split(rows, sizes)
        return torch.cat((query(q), key(k), v))

    return {"q_proj": query, "k_proj": key, "qkv_proj": fused}.get(name)


def reordered_heads(
    heads: int, head_dim: int, rotary_dim: int | None = None, *, interleaved: bool = False
) -> Transform:
    """Return a transform that moves the rows of each head, [heads * head_dim, ...], to where kernels rotate them.

    The first `rotary_dim` elements of a head are rotated; None: all. Stored pairs are (x[2i], x[2i + 1]) if
    `interleaved`, else (x[i], x[i + rotary_dim / 2]). Elements that are not rotated fill the rest of both halves.
    """
    order = torch.tensor(_order(head_dim, rotary_dim or head_dim, interleaved=interleaved))
    return lambda rows: rows.reshape(heads, head_dim, *rows.shape[1:])[:, order].flatten(0, 1)


def _order(head_dim: int, rotary_dim: int, *, interleaved: bool) -> list[int]:
    rotated, rest = list(range(rotary_dim)), list(range(rotary_dim, head_dim))
    half, half_rest = rotary_dim // 2, len(rest) // 2
    first, second = (rotated[0::2], rotated[1::2]) if interleaved else (rotated[:half], rotated[half:])
    return [*first, *rest[:half_rest], *second, *rest[half_rest:]]
