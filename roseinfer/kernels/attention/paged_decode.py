"""Attention of one new token per request over the paged KV cache (PagedAttention, Kwon et al., 2023)."""

import math

import torch
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.attention.decode_kernel import CachedRequests, DecodeOutput, Queries, fits, launch_decode
from roseinfer.kernels.attention.decode_tiles import DecodeTiles
from roseinfer.kernels.attention.score_bound import bounded, share_of_keys


def paged_decode_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    scoring: Scoring = PLAIN_SCORING,
    output: DecodeOutput | None = None,
) -> Tensor:
    """Attend from each request's newest token to all tokens of the request, itself included.

    q [requests, heads, head_dim]. key_cache and value_cache [num_blocks, block_size, kv_heads, head_dim], with any
    strides except the last. block_tables [requests, max_blocks] and context_lens [requests], int32 or int64; lengths
    count the new token. Table entries past a request's length are not read. Returns [requests, heads, head_dim]; a
    request of length 0 gives zeros.

    `order` [requests], int32, is a permutation of the requests: a GPU starts them in this order. With the longest
    first, no long request starts last. The order does not change the result. `scoring` has the scale, window,
    bound and sinks of the scores. If `output` is given, the result is written to it, except for requests of length 0.
    """
    chosen = paged_decode_attention_triton if fits(q, key_cache, value_cache) else paged_decode_attention_reference
    arguments = (q, key_cache, value_cache, block_tables, context_lens)
    return chosen(*arguments, order=order, scoring=scoring, output=output)


def paged_decode_attention_reference(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    scoring: Scoring = PLAIN_SCORING,
    output: DecodeOutput | None = None,
) -> Tensor:
    """Compute `paged_decode_attention` with torch operations over every block of every table, in float32 or float64."""
    requests, heads, head_dim = q.shape
    compute = torch.promote_types(q.dtype, torch.float32)
    positions = torch.arange(block_tables.shape[1] * key_cache.shape[1], device=q.device)
    seen = positions < context_lens[:, None]  # [requests, tokens]
    blocks = torch.where(seen[:, :: key_cache.shape[1]], block_tables, 0)
    if scoring.window is not None:
        seen = seen & (positions >= context_lens[:, None] - scoring.window)
    keys = key_cache[blocks].flatten(1, 2).to(compute)  # [requests, tokens, kv_heads, head_dim]
    values = value_cache[blocks].flatten(1, 2).to(compute).masked_fill(~seen[:, :, None, None], 0)
    grouped = q.to(compute).view(requests, keys.shape[2], -1, head_dim)
    scores = torch.einsum("rkgd,rtkd->rkgt", grouped, keys) * scoring.scale_for(head_dim)
    scores = bounded(scores, scoring.softcap)
    weights = scores.masked_fill(~seen[:, None, None], -math.inf).softmax(-1).nan_to_num(0)
    if scoring.sinks is not None:
        log_sum = scores.masked_fill(~seen[:, None, None], -math.inf).logsumexp(-1, keepdim=True)
        weights = weights * share_of_keys(log_sum, scoring.sinks.view(1, keys.shape[2], -1, 1))
    found = torch.einsum("rkgt,rtkd->rkgd", weights, values).reshape(requests, heads, head_dim).to(q.dtype)
    if output is None:
        return found
    return output.out.copy_(torch.where((context_lens > 0)[:, None, None], found, output.out))


def paged_decode_attention_triton(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    scoring: Scoring = PLAIN_SCORING,
    output: DecodeOutput | None = None,
    tiles: DecodeTiles | None = None,
) -> Tensor:
    """Compute `paged_decode_attention` in one Triton kernel.

    The grid depends on shapes alone, so that a captured launch serves every length. Calls must not overlap on several
    streams.
    """
    rows = CachedRequests(key_cache, value_cache, block_tables, context_lens, order)
    return launch_decode(Queries(q, q.shape[1], q.stride(1)), rows, scoring, tiles, output)
