"""Attention over contiguous keys and values by torch operations, for backends without a kernel of their own."""

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import AttentionSpec
from roseinfer.kernels.attention.score_bound import bounded, share_of_keys

_MAX_SCORES = 1 << 24
"""Maximum number of scores in memory at once: 64 MiB in float32."""


def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, spec: AttentionSpec, sinks: Tensor | None = None
) -> Tensor:
    """Attend from queries to keys. The spec's scale and bound apply to the scores; its window must be in the mask.

    q [batch, heads, queries, head_dim]; k and v [batch, kv_heads, keys, head_dim]. The mask broadcasts to
    [batch, 1, queries, keys]: True where a query may attend, or a number to add to the score. The sinks' scores
    broadcast to [batch, heads, queries].
    Returns [batch, heads, queries, head_dim].
    """
    if spec.softcap is not None or sinks is not None:
        return _plain_attention(q, k, v, mask, spec, sinks)
    shares = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=spec.scale, enable_gqa=shares)


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, spec: AttentionSpec, sinks: Tensor | None
) -> Tensor:
    """Attend in float32 or float64, rounded once. torch has no fused operation for bounded scores and for sinks."""
    compute = torch.promote_types(q.dtype, torch.float32)
    batch, heads, num_queries, head_dim = q.shape
    keys, values = (x.to(compute).repeat_interleave(heads // k.shape[1], dim=1) for x in (k, v))
    scale = spec.scoring.scale_for(head_dim)
    rows = max(1, _MAX_SCORES // (batch * heads * keys.shape[2]))
    parts = []
    for first in range(0, num_queries, rows):
        queries = q[:, :, first : first + rows].to(compute)
        scores = bounded(queries @ keys.transpose(2, 3) * scale, spec.softcap)
        if mask is not None:
            own = mask if mask.shape[2] == 1 else mask[:, :, first : first + rows]
            scores = scores.masked_fill(~own, float("-inf")) if own.dtype == torch.bool else scores + own
        found = scores.softmax(-1) @ values
        if sinks is not None:
            own_sinks = sinks if sinks.shape[2] == 1 else sinks[:, :, first : first + rows]
            found = found * share_of_keys(scores.logsumexp(-1), own_sinks).unsqueeze(-1)
        parts.append(found.to(q.dtype))
    return torch.cat(parts, dim=2)
