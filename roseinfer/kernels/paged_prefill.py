"""Causal attention of several requests' new tokens, packed, over the paged KV cache.

FlashAttention (Dao, 2023, https://arxiv.org/abs/2307.08691) with keys read through block tables. A request's queries
are its last tokens, so whole prompts, chunks of prompts and single tokens are one case.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)


@dataclass(frozen=True)
class PrefillTiles:
    """How a launch is cut up."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def paged_prefill_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    query_starts: Tensor,
    context_lens: Tensor,
    *,
    max_query_len: int,
    scale: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """Each new token attends to itself and to all before it in its request.

    q [tokens, heads, head_dim], request after request; query_starts [requests + 1], where each request's tokens begin;
    max_query_len, no less than any request's new tokens; key_cache and value_cache
    [num_blocks, block_size, kv_heads, head_dim], any strides but the last, the new tokens stored already; block_tables
    [requests, max_blocks]; context_lens [requests], new tokens counted -> [tokens, heads, head_dim]. Integers are int32
    or int64. Rows of q that belong to no request are left undefined.
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
        scale=scale,
        sliding_window=sliding_window,
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
    scale: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """The same with torch operations, a request at a time, in float32 or float64."""
    compute = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros_like(q)
    starts, lengths = query_starts.tolist(), context_lens.tolist()
    for request, length in enumerate(lengths):
        rows = slice(starts[request], starts[request + 1])
        new = rows.stop - rows.start
        if new == 0:
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
        if sliding_window is not None:
            seen = seen & (at > own - sliding_window)
        scores = torch.einsum("qhd,khd->hqk", q[rows].to(compute), keys)
        scores *= q.shape[-1] ** -0.5 if scale is None else scale
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        out[rows] = torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype)
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
    scale: float | None = None,
    sliding_window: int | None = None,
    tiles: PrefillTiles | None = None,
) -> Tensor:
    """The same in one Triton kernel."""
    _, heads, head_dim = q.shape
    _, block_size, kv_heads, _ = key_cache.shape
    tiles = tiles or prefill_tiles(q, max_query_len)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    _prefill_kernel[(triton.cdiv(max_query_len, tiles.queries), heads, len(context_lens))](
        q,
        key_cache,
        value_cache,
        block_tables,
        query_starts,
        context_lens,
        out,
        (head_dim**-0.5 if scale is None else scale) * math.log2(math.e),
        q.stride(0),
        q.stride(1),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        value_cache.stride(0),
        value_cache.stride(1),
        value_cache.stride(2),
        block_tables.stride(0),
        HEADS=heads,
        GROUP=heads // kv_heads,
        HEAD_DIM=head_dim,
        DIM_PADDED=max(16, next_power_of_two(head_dim)),
        BLOCK_SIZE=block_size,
        QUERIES=tiles.queries,
        KEYS=tiles.keys,
        WINDOW=sliding_window or 0,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(q),
    )
    return out


def prefill_tiles(q: Tensor, max_query_len: int) -> PrefillTiles:
    """A choice from shapes alone."""
    if q.element_size() == 4:  # no tensor cores, twice the memory
        small = q.shape[-1] > 128
        return PrefillTiles(16, 16, num_warps=8, num_stages=1) if small else PrefillTiles(32, 32, 8, 2)
    if q.shape[-1] > 128:
        return PrefillTiles(queries=64, keys=32, num_warps=4, num_stages=2)
    if max_query_len <= 64:
        return PrefillTiles(queries=max(16, next_power_of_two(max_query_len)), keys=64, num_warps=4, num_stages=3)
    return PrefillTiles(queries=128, keys=64, num_warps=8, num_stages=3)


@triton.jit
def _prefill_kernel(
    q,
    key_cache,
    value_cache,
    block_tables,
    query_starts,
    context_lens,
    out,
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
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_PADDED: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    PDL: tl.constexpr,
):
    # The last queries look at the most keys: they start first.
    query_tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    request = tl.program_id(2)
    kv_head = head // GROUP
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    query_start = tl.load(query_starts + request).to(tl.int32)
    num_queries = tl.load(query_starts + request + 1).to(tl.int32) - query_start
    if query_tile * QUERIES >= num_queries:
        return
    length = tl.load(context_lens + request).to(tl.int32)

    row = query_tile * QUERIES + tl.arange(0, QUERIES)
    dim = tl.arange(0, DIM_PADDED)
    in_dim = dim < HEAD_DIM
    row_mask = (row < num_queries)[:, None] & in_dim[None, :]
    token = (query_start + row).to(tl.int64)
    query = tl.load(q + token[:, None] * q_token_stride + head * q_head_stride + dim[None, :], mask=row_mask, other=0.0)
    own = length - num_queries + row  # each query's position
    table = block_tables + request.to(tl.int64) * table_stride
    keys = key_cache + kv_head * key_head_stride
    values = value_cache + kv_head * value_head_stride

    first_own = length - num_queries + query_tile * QUERIES
    stop = tl.minimum(first_own + QUERIES, length)
    start = 0
    if WINDOW > 0:
        start = tl.maximum(first_own - WINDOW + 1, 0) // KEYS * KEYS
    peak = tl.full((QUERIES,), -1e30, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    summed = tl.zeros((QUERIES, DIM_PADDED), tl.float32)
    for at in range(start, stop, KEYS):
        position = at + tl.arange(0, KEYS)
        live = position < stop
        block = tl.load(table + position // BLOCK_SIZE, mask=live, other=0).to(tl.int64)
        mask = live[:, None] & in_dim[None, :]
        key_place = block * key_block_stride + (position % BLOCK_SIZE) * key_token_stride
        value_place = block * value_block_stride + (position % BLOCK_SIZE) * value_token_stride
        key = tl.load(keys + key_place[:, None] + dim[None, :], mask=mask, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        seen = (position[None, :] <= own[:, None]) & live[None, :]
        if WINDOW > 0:
            seen = seen & (position[None, :] > own[:, None] - WINDOW)
        score = tl.where(seen, score, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(score, 1))
        kept = tl.exp2(peak - new_peak)
        weight = tl.exp2(score - new_peak[:, None])
        total = total * kept + tl.sum(weight, 1)
        summed = summed * kept[:, None]
        value = tl.load(values + value_place[:, None] + dim[None, :], mask=mask, other=0.0)
        summed += tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        peak = new_peak

    result = summed / tl.where(total > 0, total, 1.0)[:, None]
    place = out + (token[:, None] * HEADS + head) * HEAD_DIM + dim[None, :]
    tl.store(place, result.to(out.dtype.element_ty), mask=row_mask)
