"""The Triton kernel of causal attention of several requests' new tokens over the paged KV cache.

FlashAttention (Dao, 2023, https://arxiv.org/abs/2307.08691) with keys read through block tables. The rows of a program
are several tokens times the query heads that share a key head: keys are read once for all rows. Keys that all rows
attend to need no mask and have a loop of their own. Masked loops cover the keys on the diagonal and, with a window,
those at the window's far edge.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.attention.score_bound import hyperbolic_tangent, score_factors, with_sinks
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    tl,
    triton,
)

_MAX_PACKED = 16
"""Maximum query heads per program: the smallest number of rows of a tile."""


class EarlierKeys(NamedTuple):
    """The result of attention to the first keys of some requests, from which the others continue."""

    first_keys: Tensor
    """First key that is left per request, a multiple of 128: [requests]. 0 for requests without a result."""
    lse: Tensor
    """Logarithm of the sum of exponentials of each query's scores, [heads, tokens], float32. The attention itself is
    in `out`, where the complete attention replaces it."""


@dataclass(frozen=True)
class PrefillTiles:
    """Tile sizes and options of a launch."""

    rows: int
    """Queries per program, tokens times heads: a power of two of at least 16."""
    keys: int
    """Keys that a program processes at once."""
    num_warps: int
    num_stages: int


class NewTokens(NamedTuple):
    """The KV cache of a launch and its requests' new tokens, as `paged_prefill_attention` describes them."""

    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    query_starts: Tensor
    context_lens: Tensor


def launch_prefill(
    q: Tensor,
    rows: NewTokens,
    scoring: Scoring,
    tiles: PrefillTiles,
    out: Tensor | None = None,
    earlier: EarlierKeys | None = None,
) -> Tensor:
    """Launch the kernel for queries [tokens, heads, head_dim]. Returns the result, in `out` if it is given."""
    key_cache, value_cache, block_tables, query_starts, context_lens = rows
    tokens, heads, head_dim = q.shape
    _, block_size, kv_heads, _ = key_cache.shape
    group, requests = heads // kv_heads, len(context_lens)
    packed = _packed(group)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    # The last tile of each request may be partly empty: this number suffices wherever the requests begin.
    num_tiles = tokens // (tiles.rows // packed) + requests
    first_keys, lse = earlier or (context_lens, context_lens)
    _prefill_kernel[(num_tiles * (heads // packed),)](
        q,
        key_cache,
        value_cache,
        block_tables,
        query_starts,
        context_lens,
        first_keys,
        lse,
        q if scoring.sinks is None else scoring.sinks,
        out,
        requests,
        *score_factors(scoring, head_dim),
        q.stride(0),
        q.stride(1),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        value_cache.stride(0),
        value_cache.stride(1),
        value_cache.stride(2),
        block_tables.stride(0),
        lse.stride(0),
        HEADS=heads,
        GROUP=group,
        PACKED=packed,
        HEAD_DIM=head_dim,
        DIM_PADDED=max(16, next_power_of_two(head_dim)),
        BLOCK_SIZE=block_size,
        ROWS=tiles.rows,
        KEYS=tiles.keys,
        WINDOW=scoring.window or 0,
        BOUNDED=scoring.softcap is not None,
        HAS_SINKS=scoring.sinks is not None,
        CONTINUES=earlier is not None,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(q),
    )
    return out


def prefill_tiles(q: Tensor, kv_heads: int, max_query_len: int) -> PrefillTiles:
    """Choose tiles from shapes alone. The choices are few, because each is compiled on first use."""
    rows = max_query_len * _packed(q.shape[1] // kv_heads)
    head_dim = q.shape[-1]
    if q.element_size() == 4:  # float32: no tensor cores, twice the memory
        if head_dim > 128:
            return PrefillTiles(rows=16, keys=16, num_warps=8, num_stages=1)
        return PrefillTiles(rows=32, keys=32 if head_dim <= 64 else 16, num_warps=8, num_stages=2)
    if rows <= 16:
        return PrefillTiles(rows=16, keys=64 if head_dim <= 128 else 32, num_warps=4, num_stages=3)
    if head_dim > 128:  # with 4 warps, or with 64 keys, registers spill
        return PrefillTiles(rows=64 if rows <= 64 else 128, keys=32, num_warps=8, num_stages=2)
    if rows <= 64:
        return PrefillTiles(rows=64, keys=64, num_warps=4, num_stages=3)
    return PrefillTiles(rows=128, keys=64, num_warps=8, num_stages=3)


def _packed(group: int) -> int:
    """Return the query heads per program, a divisor of the number that share a key head."""
    return max(count for count in range(1, _MAX_PACKED + 1) if group % count == 0)


# Specialization for 1 request, or for multiples of 16, would compile again and be no faster.
@triton.jit(do_not_specialize=["requests", "table_stride", "lse_stride"])
def _prefill_kernel(
    q,
    key_cache,
    value_cache,
    block_tables,
    query_starts,
    context_lens,
    first_keys,
    lse,
    sinks,
    out,
    requests,
    bound_scale,
    scale,
    q_token_stride,
    q_head_stride,
    key_block_stride,
    key_token_stride,
    key_head_stride,
    value_block_stride,
    value_token_stride,
    value_head_stride,
    table_stride,
    lse_stride,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PACKED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    BOUNDED: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    CONTINUES: tl.constexpr,
    PDL: tl.constexpr,
):
    PROGRAMS_PER_TILE: tl.constexpr = HEADS // PACKED
    TOKENS: tl.constexpr = ROWS // PACKED
    # The last queries of a request attend to the most keys: their tiles start first, all heads together.
    tile = tl.num_programs(0) // PROGRAMS_PER_TILE - 1 - tl.program_id(0) // PROGRAMS_PER_TILE
    head = tl.program_id(0) % PROGRAMS_PER_TILE * PACKED
    kv_head = head // GROUP
    if PDL:
        # In this order: a decode launch with `overlaps` reads what was written before this kernel began.
        gdc_wait()
        gdc_launch_dependents()

    # The first tile of request r is query_starts[r] // TOKENS + r. This tile's request is the last one at or before it.
    request = -1
    for first in range(0, requests, 128):
        index = first + tl.arange(0, 128)
        begin = tl.load(query_starts + index, mask=index < requests, other=0).to(tl.int32)
        request += tl.sum(((index < requests) & (begin // TOKENS + index <= tile)).to(tl.int32), 0)
    request = tl.maximum(request, 0)  # tiles before the first request hold other tokens
    query_start = tl.load(query_starts + request).to(tl.int32)
    num_queries = tl.load(query_starts + request + 1).to(tl.int32) - query_start
    first_query = (tile - request - query_start // TOKENS) * TOKENS
    if first_query < 0 or first_query >= num_queries:
        return
    length = tl.load(context_lens + request).to(tl.int32)
    if length == 0:
        return

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM_PADDED)
    query_of_row = first_query + row // PACKED
    live_row = (row < TOKENS * PACKED) & (query_of_row < num_queries)
    row_mask = live_row[:, None] & (dim < HEAD_DIM)[None, :]
    token = (query_start + query_of_row).to(tl.int64)
    row_head = head + row % PACKED
    query_place = q + token[:, None] * q_token_stride + row_head[:, None] * q_head_stride + dim[None, :]
    query = tl.load(query_place, mask=row_mask, other=0.0)
    own = length - num_queries + query_of_row  # each query's position
    table = block_tables + tl.cast(request, tl.int64) * table_stride
    keys = key_cache + kv_head * key_head_stride
    values = value_cache + kv_head * value_head_stride

    first_own = length - num_queries + first_query
    stop = tl.minimum(first_own + TOKENS, length)
    seen_by_all = (first_own + 1) // KEYS * KEYS  # keys before the diagonal
    start = 0
    peak = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    summed = tl.zeros((ROWS, DIM_PADDED), tl.float32)
    place = out + (token * HEADS + row_head)[:, None] * HEAD_DIM + dim[None, :]
    if CONTINUES:
        start = tl.load(first_keys + request).to(tl.int32)
        known = live_row & (start > 0)
        log_sum = tl.load(lse + row_head * lse_stride + token, mask=known, other=0.0)
        peak = tl.where(known, log_sum * 1.4426950408889634, peak)  # log2(e)
        total = tl.where(known, 1.0, total)
        summed = tl.load(place, mask=known[:, None] & (dim < HEAD_DIM)[None, :], other=0.0).to(tl.float32)
    if WINDOW > 0:
        far = tl.maximum(first_own - WINDOW + 1, 0) // KEYS * KEYS
        inside = tl.maximum(first_own + TOKENS - WINDOW, 0)  # first key that the last query attends to
        start = tl.minimum(tl.cdiv(inside, KEYS) * KEYS, seen_by_all)
        peak, total, summed = _attend_keys(
            far, start, stop, True,
            query, own, keys, values, table, bound_scale, scale, peak, total, summed,
            key_block_stride, key_token_stride, value_block_stride, value_token_stride,
            HEAD_DIM, DIM_PADDED, BLOCK_SIZE, KEYS, WINDOW, BOUNDED,
        )  # fmt: skip
    peak, total, summed = _attend_keys(
        start, seen_by_all, stop, False,
        query, own, keys, values, table, bound_scale, scale, peak, total, summed,
        key_block_stride, key_token_stride, value_block_stride, value_token_stride,
        HEAD_DIM, DIM_PADDED, BLOCK_SIZE, KEYS, WINDOW, BOUNDED,
    )  # fmt: skip
    peak, total, summed = _attend_keys(
        seen_by_all, stop, stop, True,
        query, own, keys, values, table, bound_scale, scale, peak, total, summed,
        key_block_stride, key_token_stride, value_block_stride, value_token_stride,
        HEAD_DIM, DIM_PADDED, BLOCK_SIZE, KEYS, WINDOW, BOUNDED,
    )  # fmt: skip

    if HAS_SINKS:
        peak, total, summed = with_sinks(sinks + row_head, live_row, peak, total, summed)
    result = summed / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(place, result.to(out.dtype.element_ty), mask=row_mask)


@triton.jit
def _attend_keys(
    start,
    stop,
    limit,
    MASKED: tl.constexpr,
    query,
    own,
    keys,
    values,
    table,
    bound_scale,
    scale,
    peak,
    total,
    summed,
    key_block_stride,
    key_token_stride,
    value_block_stride,
    value_token_stride,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Add the keys from `start`, a multiple of KEYS, up to `stop` to a running softmax. Never read from `limit` on.

    Without a mask, `stop` is a multiple of KEYS too, and every row attends to all of these keys.
    """
    lane = tl.arange(0, KEYS)
    dim = tl.arange(0, DIM_PADDED)
    for at in range(start, stop, KEYS):
        position = at + lane
        if KEYS % BLOCK_SIZE == 0:  # the compiler moves the constant part out of the loop
            block_index = at // BLOCK_SIZE + lane // BLOCK_SIZE
            offset = lane % BLOCK_SIZE
        else:
            block_index = position // BLOCK_SIZE
            offset = position % BLOCK_SIZE
        if MASKED:
            live = position < limit
            block = tl.load(table + block_index, mask=live, other=0).to(tl.int64)
        else:
            block = tl.load(table + block_index).to(tl.int64)
        key_place = keys + (block * key_block_stride + offset * key_token_stride)[:, None] + dim[None, :]
        value_place = values + (block * value_block_stride + offset * value_token_stride)[:, None] + dim[None, :]
        if MASKED:
            mask = live[:, None] & (dim < HEAD_DIM)[None, :]
            key = tl.load(key_place, mask=mask, other=0.0)
            value = tl.load(value_place, mask=mask, other=0.0)
        elif HEAD_DIM < DIM_PADDED:
            mask = (dim < HEAD_DIM)[None, :]
            key = tl.load(key_place, mask=mask, other=0.0)
            value = tl.load(value_place, mask=mask, other=0.0)
        else:
            key = tl.load(key_place)
            value = tl.load(value_place)
        score = tl.dot(query, tl.trans(key), input_precision="ieee")
        if BOUNDED:
            score = hyperbolic_tangent(score * bound_scale)
        if MASKED:
            seen = (position[None, :] <= own[:, None]) & live[None, :]
            if WINDOW > 0:
                seen = seen & (position[None, :] > own[:, None] - WINDOW)
            score = tl.where(seen, score, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(score, 1) * scale)
        kept = tl.exp2(peak - new_peak)
        weight = tl.exp2(score * scale - new_peak[:, None])
        total = total * kept + tl.sum(weight, 1)
        summed = tl.dot(weight.to(value.dtype), value, summed * kept[:, None], input_precision="ieee")
        peak = new_peak
    return peak, total, summed
