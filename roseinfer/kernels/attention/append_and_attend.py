"""All of a decode step's attention in one kernel: norms, rotation, append to the KV cache, and attention."""

import torch
from torch import Tensor

from roseinfer.kernels.attention.decode_kernel import CachedRequests, Queries, fits, launch_decode
from roseinfer.kernels.attention.decode_tiles import DecodeTiles
from roseinfer.kernels.attention.paged_decode import paged_decode_attention_reference
from roseinfer.kernels.attention.projection import Projection
from roseinfer.kernels.attention.rope_append import rope_append_reference


def append_and_attend(
    projection: Projection,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
) -> Tensor:
    """Compute `rope_append` and then `paged_decode_attention`, for one new token per request. One kernel on a GPU.

    The projection has one row per request. Each token's position is its request's length - 1, and its slot follows from
    the block table: `projection.positions` is not read. Caches, block tables, lengths and order are those of
    `paged_decode_attention`; the scoring is the layer's. Returns [requests, num_heads, head_dim]. A request of
    length 0 stores nothing.
    """
    layer = projection.layer
    takes = key_cache.shape[-1] % 2 == 0 and fits(
        projection.qkv, key_cache, value_cache, layer.table, layer.q_norm, layer.k_norm
    )
    chosen = append_and_attend_triton if takes else append_and_attend_reference
    return chosen(projection, key_cache, value_cache, block_tables, context_lens, order=order)


def append_and_attend_reference(
    projection: Projection,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
) -> Tensor:
    """Compute `append_and_attend` by the references of `rope_append` and `paged_decode_attention`."""
    positions = (context_lens.to(torch.int64) - 1).clamp(min=0)
    slots = newest_slots(block_tables, context_lens, key_cache.shape[1])
    q = rope_append_reference(projection._replace(positions=positions), slots, key_cache, value_cache)
    scoring = projection.layer.scoring
    return paged_decode_attention_reference(q, key_cache, value_cache, block_tables, context_lens, scoring=scoring)


def append_and_attend_triton(
    projection: Projection,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    tiles: DecodeTiles | None = None,
) -> Tensor:
    """Compute `append_and_attend` in one Triton kernel.

    The grid depends on shapes alone, so that a captured launch serves every length. Calls must not overlap on several
    streams.
    """
    layer = projection.layer
    queries = Queries(projection.qkv, layer.spec.num_heads, key_cache.shape[-1], appends=layer)
    rows = CachedRequests(key_cache, value_cache, block_tables, context_lens, order)
    return launch_decode(queries, rows, layer.scoring, tiles)


def newest_slots(block_tables: Tensor, context_lens: Tensor, block_size: int) -> Tensor:
    """Return the slot of each request's newest token, block x block_size + offset: [requests], int64.

    The slot of a request of length 0 is -1. Tables and lengths are those of `paged_decode_attention`.
    """
    positions = (context_lens.to(torch.int64) - 1).clamp(min=0)
    blocks = block_tables.gather(1, (positions // block_size)[:, None]).squeeze(1).to(torch.int64)
    return torch.where(context_lens > 0, blocks * block_size + positions % block_size, -1)
