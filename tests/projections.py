"""Fused projections for the tests of attention kernels and backends."""

import torch
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, AttentionSpec, Scoring
from roseinfer.kernels.attention.projection import AttentionLayer, Projection


def projection_of(
    qkv: Tensor,
    heads: tuple[int, int],
    *,
    positions: Tensor | None = None,
    table: Tensor | None = None,
    norms: tuple[Tensor | None, Tensor | None] = (None, None),
    eps: float = 1e-6,
    scoring: Scoring = PLAIN_SCORING,
    index: int = 0,
) -> Projection:
    """Return the projection qkv [tokens, (heads + 2 * kv_heads) * head_dim]; `heads` is (heads, kv_heads)."""
    head_dim = qkv.shape[1] // (heads[0] + 2 * heads[1])
    spec = AttentionSpec(num_heads=heads[0], num_kv_heads=heads[1], head_dim=head_dim, **scoring._asdict())
    layer = AttentionLayer(index, spec, table, *norms, eps)
    return Projection(qkv, qkv.new_zeros(len(qkv), dtype=torch.int64) if positions is None else positions, layer)


def fused(q: Tensor, k: Tensor, v: Tensor, *, scoring: Scoring = PLAIN_SCORING, index: int = 0) -> Projection:
    """Fuse queries [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim] into a projection."""
    heads = (q.shape[1], k.shape[1])
    return projection_of(torch.cat((q, k, v), dim=1).flatten(1), heads, scoring=scoring, index=index)
