"""Causal attention of several requests' new tokens, packed, over the paged KV cache.

A request's queries are its last tokens, so whole prompts, chunks and single tokens are the same case.
"""

import math

import torch
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import PLAIN_SCORING, Scoring
from roseinfer.kernels.attention.prefill_kernel import (
    EarlierKeys,
    NewTokens,
    PrefillTiles,
    launch_prefill,
    prefill_tiles,
)
from roseinfer.kernels.attention.score_bound import bounded, share_of_keys
from roseinfer.kernels.runtime import runs_triton


def paged_prefill_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    max_query_len: int,
    scoring: Scoring = PLAIN_SCORING,
    out: Tensor | None = None,
    earlier: EarlierKeys | None = None,
) -> Tensor:
    """Attend from each new token to itself and to all tokens before it in its request.

    q [tokens, heads, head_dim] holds one request after another; query_starts [requests + 1] holds the first token of
    each request, then the end of the last. key_cache and value_cache [num_blocks, block_size, kv_heads, head_dim], with
    any strides except the last, contain the new tokens already. block_tables [requests, max_blocks]; context_lens
    [requests] count the new tokens. Integers are int32 or int64. `max_query_len`, by which tiles are chosen, is the
    approximate maximum of new tokens per request. `scoring` has the scale, window, bound and sinks of the scores.
    Returns [tokens, heads, head_dim], in `out` if it is given, which must be contiguous. A request with a context of 0
    tokens is skipped. Rows that belong to no request, or to a skipped one, are unchanged in `out` and else undefined.
    `earlier`, which needs `out` and allows no window and no sinks, continues from attention to the first keys of some
    requests.
    """
    block_size = key_cache.shape[1]
    fits = block_size & (block_size - 1) == 0 and q.shape[-1] <= 256 and runs_triton(q, key_cache, value_cache)
    return (paged_prefill_attention_triton if fits else paged_prefill_attention_reference)(
        q,
        key_cache,
        value_cache,
        block_tables,
        query_starts,
        context_lens,
        max_query_len=max_query_len,
        scoring=scoring,
        out=out,
        earlier=earlier,
    )


def paged_prefill_attention_reference(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    max_query_len: int,
    scoring: Scoring = PLAIN_SCORING,
    out: Tensor | None = None,
    earlier: EarlierKeys | None = None,
) -> Tensor:
    """Compute `paged_prefill_attention` with torch operations, request by request, in float32 or float64."""
    compute = torch.promote_types(q.dtype, torch.float32)
    out = q.new_zeros(q.shape) if out is None else out
    starts, lengths = query_starts.tolist(), context_lens.tolist()
    for request, length in enumerate(lengths):
        rows = slice(starts[request], starts[request + 1])
        new = rows.stop - rows.start
        if new == 0 or length == 0:
            continue
        blocks = block_tables[request, : -(-length // key_cache.shape[1])]
        sharing = q.shape[1] // key_cache.shape[2]
        keys, values = (
            cache[blocks].flatten(0, 1)[:length].to(compute).repeat_interleave(sharing, 1)
            for cache in (key_cache, value_cache)
        )  # [length, heads, head_dim]
        own = torch.arange(length - new, length, device=q.device)[:, None]
        at = torch.arange(length, device=q.device)
        seen = at <= own
        if scoring.window is not None:
            seen = seen & (at > own - scoring.window)
        first_key = 0 if earlier is None else int(earlier.first_keys[request])
        seen = seen & (at >= first_key)
        scores = torch.einsum("qhd,khd->hqk", q[rows].to(compute), keys)
        scores = bounded(scores * scoring.scale_for(q.shape[-1]), scoring.softcap)
        scores = scores.masked_fill(~seen, -math.inf)
        found = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        if earlier is not None and first_key:
            before = earlier.lse[:, rows].to(compute)
            share = torch.sigmoid(before - scores.logsumexp(-1)).t().unsqueeze(-1)  # of the earlier keys
            found = share * out[rows].to(compute) + (1 - share) * found
        if scoring.sinks is not None:
            found = found * share_of_keys(scores.logsumexp(-1), scoring.sinks[:, None]).t().unsqueeze(-1)
        out[rows] = found.to(q.dtype)
    return out


def paged_prefill_attention_triton(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    max_query_len: int,
    scoring: Scoring = PLAIN_SCORING,
    out: Tensor | None = None,
    earlier: EarlierKeys | None = None,
    tiles: PrefillTiles | None = None,
) -> Tensor:
    """Compute `paged_prefill_attention` in one Triton kernel."""
    rows = NewTokens(key_cache, value_cache, block_tables, query_starts, context_lens)
    tiles = tiles or prefill_tiles(q, key_cache.shape[2], max_query_len)
    return launch_prefill(q, rows, scoring, tiles, out, earlier)
