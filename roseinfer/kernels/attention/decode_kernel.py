"""The Triton kernel of decode attention: one new token per request over the paged KV cache.

Each request's keys are cut into splits, so that a small batch fills the device too (Flash-Decoding, Dao et al., 2023).
The last split to finish combines the results of all, so that a layer needs one kernel. One program computes all query
heads that share a key head: keys and values are read once. The kernel also accepts fused projections. It then
normalizes and rotates the new tokens itself, and does not read back what it appends to the cache.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.attention.decode_tiles import DecodeTiles, decode_tiles
from roseinfer.kernels.attention.head_rotation import gains, normalized_and_rotated, rotation
from roseinfer.kernels.attention.projection import AttentionLayer
from roseinfer.kernels.attention.score_bound import hyperbolic_tangent, score_factors, with_sinks
from roseinfer.kernels.attention.split_results import joined_splits, splits_at_once
from roseinfer.kernels.runtime import (
    MAX_ARRIVALS,
    arrivals,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)


class Queries(NamedTuple):
    """The input rows of a launch, one per request."""

    rows: Tensor
    """Queries [requests, heads, head_dim]; or fused projections [requests, (heads + 2 * kv_heads) * head_dim], if
    `appends` is given."""
    heads: int
    head_stride: int
    """Elements between two query heads of a row."""
    appends: AttentionLayer | None = None
    """Layer whose norms and rotary table the kernel applies to fused projections. None: `rows` are queries."""


class CachedRequests(NamedTuple):
    """The KV cache of a launch, and the requests' block tables, lengths and order, as in `paged_decode_attention`."""

    key_cache: Tensor
    value_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor
    order: Tensor | None


class DecodeOutput(NamedTuple):
    """A destination for the result of a launch."""

    out: Tensor
    """Result [requests, heads, head_dim], contiguous. Rows of requests of length 0 are unchanged."""
    overlaps: bool = False
    """True if the kernel may overlap with the previous one, a paged_prefill_attention of the same step."""


def fits(rows: Tensor, key_cache: Tensor, *others: Tensor | None) -> bool:
    """True if the kernel supports these input rows, this cache, and these other tensors."""
    _, block_size, kv_heads, head_dim = key_cache.shape
    power_of_two = block_size & (block_size - 1) == 0
    counted = len(rows) * kv_heads < MAX_ARRIVALS
    return power_of_two and head_dim <= 256 and counted and runs_triton(rows, key_cache, *others)


def launch_decode(
    queries: Queries,
    rows: CachedRequests,
    scoring: Scoring,
    tiles: DecodeTiles | None,
    output: DecodeOutput | None = None,
) -> Tensor:
    """Launch the kernel, for queries of tokens in the cache, or for fused projections of tokens to append."""
    q, heads, q_head_stride, new = queries
    key_cache, value_cache, block_tables, context_lens, order = rows
    requests, (_, block_size, kv_heads, head_dim) = len(q), key_cache.shape
    group = heads // kv_heads
    tiles = tiles or decode_tiles(requests, heads, key_cache, block_tables.shape[1] * block_size)
    out, overlaps = output or (torch.empty((requests, heads, head_dim), dtype=q.dtype, device=q.device), False)
    # Results per split: the weighted sum per dimension; the largest score and the sum of weights.
    partial_out, partial_stats = out, out
    if tiles.num_splits > 1:
        partial_out = q.new_empty((requests, kv_heads, tiles.num_splits, group, head_dim), dtype=torch.float32)
        partial_stats = q.new_empty((requests, kv_heads, tiles.num_splits, group, 2), dtype=torch.float32)
    ordered = tiles.ordered and order is not None
    members, dim_padded = next_power_of_two(group), max(16, next_power_of_two(head_dim))
    table, q_norm, k_norm = (None, None, None) if new is None else (new.table, new.q_norm, new.k_norm)
    _decode_kernel[(kv_heads, tiles.num_splits, requests)](
        q,
        q if table is None else table,
        q if q_norm is None else q_norm,
        q if k_norm is None else k_norm,
        key_cache,
        value_cache,
        block_tables,
        context_lens,
        order if ordered else context_lens,
        out,
        partial_out,
        partial_stats,
        arrivals(q.device),
        q if scoring.sinks is None else scoring.sinks,
        tiles.num_splits,
        *score_factors(scoring, head_dim),
        0.0 if new is None else new.eps,
        q.stride(0),
        q_head_stride,
        0 if table is None else table.stride(0),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        value_cache.stride(0),
        value_cache.stride(1),
        value_cache.stride(2),
        block_tables.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        GROUP_PADDED=1 if group == 1 else max(16, next_power_of_two(group)),
        HEAD_DIM=head_dim,
        DIM_PADDED=dim_padded,
        BLOCK_SIZE=block_size,
        TILE=tiles.tile,
        MEMBERS=members,
        SPLITS_AT_ONCE=splits_at_once(members, dim_padded, tiles.num_warps) if tiles.num_splits > 1 else 0,
        WINDOW=scoring.window or 0,
        BOUNDED=scoring.softcap is not None,
        HAS_SINKS=scoring.sinks is not None,
        ORDERED=ordered,
        APPENDS=new is not None,
        HAS_TABLE=table is not None,
        HAS_Q_NORM=q_norm is not None,
        HAS_K_NORM=k_norm is not None,
        KEEPS=output is not None,
        OVERLAPS=overlaps,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(q),
    )
    return out


# One kernel for all numbers of splits and widths of the tables, which follow the batch: compiling takes a second.
@triton.jit(do_not_specialize=["num_splits", "table_stride"])
def _decode_kernel(
    q,
    rope_table,
    q_norm,
    k_norm,
    key_cache,
    value_cache,
    block_tables,
    context_lens,
    order,
    out,
    partial_out,
    partial_stats,
    arrived_splits,
    sinks,
    num_splits,
    bound_scale,
    scale,
    eps,
    q_request_stride,
    q_head_stride,
    rope_stride,
    key_block_stride,
    key_token_stride,
    key_head_stride,
    value_block_stride,
    value_token_stride,
    value_head_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    MEMBERS: tl.constexpr,
    SPLITS_AT_ONCE: tl.constexpr,
    WINDOW: tl.constexpr,
    BOUNDED: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    ORDERED: tl.constexpr,
    APPENDS: tl.constexpr,
    HAS_TABLE: tl.constexpr,
    HAS_Q_NORM: tl.constexpr,
    HAS_K_NORM: tl.constexpr,
    KEEPS: tl.constexpr,
    OVERLAPS: tl.constexpr,
    PDL: tl.constexpr,
):
    kv_head = tl.program_id(0)
    split = tl.program_id(1)
    # These inputs were written at the step's start, several launches ago: no need to wait for the predecessor.
    request = tl.load(order + tl.program_id(2)) if ORDERED else tl.program_id(2)
    length = tl.load(context_lens + request).to(tl.int32)
    end = tl.maximum(length - 1, 0) if APPENDS else length  # number of tokens read from the cache
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    num_tiles = tl.cdiv(end - first, TILE)
    split_tiles = tl.maximum(tl.cdiv(num_tiles, num_splits), 1)
    active = tl.cdiv(num_tiles, split_tiles)  # splits with tokens; the others return
    # Returning before the wait is safe: one split per request waits, so the kernel ends after its predecessor.
    if split >= tl.maximum(active, 1):
        return
    start = first + split * split_tiles * TILE
    stop = tl.minimum(end, start + split_tiles * TILE)

    head = tl.arange(0, GROUP_PADDED)
    dim = tl.arange(0, DIM_PADDED)
    token = tl.arange(0, TILE)
    in_group = head < GROUP
    in_dim = dim < HEAD_DIM
    table = block_tables + request.to(tl.int64) * table_stride
    keys = key_cache + kv_head * key_head_stride
    values = value_cache + kv_head * value_head_stride
    queries = q + request.to(tl.int64) * q_request_stride + kv_head * GROUP * q_head_stride
    if APPENDS:
        # Weights and the step's block table do not depend on the kernel's predecessor.
        fresh = (split == 0) & (length > 0)  # the first split computes the newest token
        new_block = tl.load(table + end // BLOCK_SIZE, mask=fresh, other=0).to(tl.int64)
        angles = rope_table + end.to(tl.int64) * rope_stride
        cos, sin = rotation(angles, dim, HEAD_DIM, HAS_TABLE)
        q_gain, q_swapped_gain = gains(q_norm, dim, HEAD_DIM, HAS_Q_NORM)
        k_gain, k_swapped_gain = gains(k_norm, dim, HEAD_DIM, HAS_K_NORM)
    # With OVERLAPS, the predecessor triggered this launch only after its own predecessor had ended: inputs are ready.
    if PDL and not OVERLAPS:
        gdc_wait()
        gdc_launch_dependents()

    query_rows = queries + head * q_head_stride
    if APPENDS:
        query = normalized_and_rotated(
            query_rows, in_group, dim, q_gain, q_swapped_gain, cos, sin, eps, HEAD_DIM, HAS_Q_NORM, HAS_TABLE
        )
        one = tl.arange(0, 1)
        key_row = q + request.to(tl.int64) * q_request_stride + (KV_HEADS * GROUP + kv_head) * HEAD_DIM + one
        new_key = normalized_and_rotated(
            key_row, fresh & (one == 0), dim, k_gain, k_swapped_gain, cos, sin, eps, HEAD_DIM, HAS_K_NORM, HAS_TABLE
        )
        new_value = tl.load(
            key_row[:, None] + KV_HEADS * HEAD_DIM + dim[None, :], mask=fresh & in_dim[None, :], other=0.0
        )
        # The new token starts the softmax, rounded as if it were read back from the cache.
        new_key = new_key.to(key_cache.dtype.element_ty)
        new_value = new_value.to(value_cache.dtype.element_ty)
        new_offset = end % BLOCK_SIZE
        new_key_place = keys + new_block * key_block_stride + new_offset * key_token_stride + dim[None, :]
        new_value_place = values + new_block * value_block_stride + new_offset * value_token_stride + dim[None, :]
        tl.store(new_key_place, new_key, mask=fresh & in_dim[None, :])
        tl.store(new_value_place, new_value, mask=fresh & in_dim[None, :])
        query = query.to(q.dtype.element_ty)
        new_score = tl.sum(query.to(tl.float32) * new_key.to(tl.float32), 1)
        if BOUNDED:
            new_score = hyperbolic_tangent(new_score * bound_scale)
        new_score = new_score * scale
    else:
        query = tl.load(query_rows[:, None] + dim[None, :], mask=in_group[:, None] & in_dim[None, :], other=0.0)

    if GROUP_PADDED == 1:
        # Without tensor cores: each token of the tile has its own running softmax. They are combined once, at the end.
        query = query.to(tl.float32) * (bound_scale if BOUNDED else scale)
        peak = tl.full((TILE,), -1e30, tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        summed = tl.zeros((TILE, DIM_PADDED), tl.float32)
        if APPENDS:
            newest = (token == 0) & fresh
            peak = tl.where(newest, new_score, peak)
            total = tl.where(newest, 1.0, total)
            summed = tl.where(newest[:, None], new_value.to(tl.float32), summed)
        # Keys and values are loaded one tile ahead of the arithmetic, block numbers two tiles: the compiler pipelines
        # only loads that feed `tl.dot`.
        position = start + token
        live = position < stop
        block = tl.load(table + position // BLOCK_SIZE, mask=live, other=0).to(tl.int64)
        mask = live[:, None] & in_dim[None, :]
        key_place = block * key_block_stride + (position % BLOCK_SIZE) * key_token_stride
        value_place = block * value_block_stride + (position % BLOCK_SIZE) * value_token_stride
        key = tl.load(keys + key_place[:, None] + dim[None, :], mask=mask, other=0.0)
        value = tl.load(values + value_place[:, None] + dim[None, :], mask=mask, other=0.0)
        next_position = position + TILE
        next_block = tl.load(table + next_position // BLOCK_SIZE, mask=next_position < stop, other=0).to(tl.int64)
        for at in range(start, stop, TILE):
            live = at + token < stop
            position = at + TILE + token
            mask = (position < stop)[:, None] & in_dim[None, :]
            key_place = next_block * key_block_stride + (position % BLOCK_SIZE) * key_token_stride
            value_place = next_block * value_block_stride + (position % BLOCK_SIZE) * value_token_stride
            next_key = tl.load(keys + key_place[:, None] + dim[None, :], mask=mask, other=0.0)
            next_value = tl.load(values + value_place[:, None] + dim[None, :], mask=mask, other=0.0)
            next_position = position + TILE
            next_block = tl.load(table + next_position // BLOCK_SIZE, mask=next_position < stop, other=0).to(tl.int64)
            score = tl.sum(key.to(tl.float32) * query, 1)
            if BOUNDED:
                score = hyperbolic_tangent(score) * scale
            score = tl.where(live, score, float("-inf"))
            new_peak = tl.maximum(peak, score)
            kept = tl.exp2(peak - new_peak)
            weight = tl.exp2(score - new_peak)
            total = total * kept + weight
            summed = summed * kept[:, None] + weight[:, None] * value.to(tl.float32)
            peak = new_peak
            key = next_key
            value = next_value
        highest = tl.max(peak, 0)
        share = tl.exp2(peak - highest)
        row_peak = tl.zeros((1,), tl.float32) + highest
        row_total = tl.zeros((1,), tl.float32) + tl.sum(total * share, 0)
        row_summed = tl.sum(summed * share[:, None], 0)[None, :]
    else:
        row_peak = tl.full((GROUP_PADDED,), -1e30, tl.float32)
        row_total = tl.zeros((GROUP_PADDED,), tl.float32)
        row_summed = tl.zeros((GROUP_PADDED, DIM_PADDED), tl.float32)
        if APPENDS:
            row_peak = tl.where(fresh, new_score, row_peak)
            row_total = tl.where(fresh, 1.0, row_total)
            row_summed += new_value.to(tl.float32)
        for at in range(start, stop, TILE):
            position = at + token
            live = position < stop
            block = tl.load(table + position // BLOCK_SIZE, mask=live, other=0).to(tl.int64)
            mask = live[:, None] & in_dim[None, :]
            key_place = block * key_block_stride + (position % BLOCK_SIZE) * key_token_stride
            value_place = block * value_block_stride + (position % BLOCK_SIZE) * value_token_stride
            key = tl.load(keys + key_place[:, None] + dim[None, :], mask=mask, other=0.0)
            value = tl.load(values + value_place[:, None] + dim[None, :], mask=mask, other=0.0)
            score = tl.dot(query, tl.trans(key), input_precision="ieee")
            if BOUNDED:
                score = hyperbolic_tangent(score * bound_scale)
            score = score * scale
            score = tl.where(live[None, :], score, float("-inf"))
            new_peak = tl.maximum(row_peak, tl.max(score, 1))
            kept = tl.exp2(row_peak - new_peak)
            weight = tl.exp2(score - new_peak[:, None])
            row_total = row_total * kept + tl.sum(weight, 1)
            row_summed = row_summed * kept[:, None]
            row_summed += tl.dot(weight.to(value.dtype), value, input_precision="ieee")
            row_peak = new_peak

    if HAS_SINKS:
        own_sinks = sinks + kv_head * GROUP + head
        row_peak, row_total, row_summed = with_sinks(
            own_sinks, in_group & (split == 0), row_peak, row_total, row_summed
        )
    if PDL and OVERLAPS:
        # The successor waits for this kernel only, so this kernel must not end before its own predecessor.
        gdc_wait()
        gdc_launch_dependents()
    lane = request * KV_HEADS + kv_head
    result = out + (lane.to(tl.int64) * GROUP + head[:, None]) * HEAD_DIM + dim[None, :]
    result_mask = in_group[:, None] & in_dim[None, :]
    if active <= 1:
        divisor = tl.where(row_total > 0, row_total, 1.0)  # a request of length 0
        if KEEPS:
            result_mask = result_mask & (length > 0)
        tl.store(result, (row_summed / divisor[:, None]).to(out.dtype.element_ty), mask=result_mask)
        return
    if SPLITS_AT_ONCE > 0:
        part = lane.to(tl.int64) * num_splits
        rows = (part + split) * GROUP + head
        tl.store(partial_out + rows[:, None] * HEAD_DIM + dim[None, :], row_summed, mask=result_mask)
        tl.store(partial_stats + rows * 2, row_peak, mask=in_group)
        tl.store(partial_stats + rows * 2 + 1, row_total, mask=in_group)
        if is_last(arrived_splits + lane, active):
            member = tl.arange(0, MEMBERS)
            joined = joined_splits(
                partial_out,
                partial_stats,
                part * GROUP,
                active,
                member,
                dim,
                GROUP,
                HEAD_DIM,
                MEMBERS,
                DIM_PADDED,
                SPLITS_AT_ONCE,
            )
            target = out + (lane.to(tl.int64) * GROUP + member[:, None]) * HEAD_DIM + dim[None, :]
            tl.store(target, joined.to(out.dtype.element_ty), mask=(member < GROUP)[:, None] & in_dim[None, :])
