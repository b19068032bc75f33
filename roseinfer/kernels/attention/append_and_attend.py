"""One decode step of a layer's attention in one kernel: norms, rotary positions, the append to the cache, attention."""

import torch
from torch import Tensor

from roseinfer.kernels.attention.decode_kernel import DecodeTiles, NewTokens, fits, launch_decode
from roseinfer.kernels.attention.paged_decode import paged_decode_attention_reference
from roseinfer.kernels.attention.rope_append import rope_append_reference


def append_and_attend(
    qkv: Tensor,
    table: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    num_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    *,
    order: Tensor | None = None,
    scale: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """`rope_append` and then `paged_decode_attention` of each request's newest token, in one kernel on a GPU.

    qkv [requests, (num_heads + 2 * kv_heads) * head_dim]; that token's position is its request's length - 1, its slot
    where the block table has that position. The rest as of the two -> [requests, num_heads, head_dim]. Of a request of
    length 0 nothing is stored.
    """
    takes = key_cache.shape[-1] % 2 == 0 and fits(qkv, key_cache, value_cache, table, q_norm, k_norm)
    chosen = append_and_attend_triton if takes else append_and_attend_reference
    arguments = (qkv, table, key_cache, value_cache, block_tables, context_lens, num_heads, q_norm, k_norm, eps)
    return chosen(*arguments, order=order, scale=scale, sliding_window=sliding_window)


def append_and_attend_reference(
    qkv: Tensor,
    table: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    num_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    *,
    order: Tensor | None = None,
    scale: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """The same by the references of the two."""
    _, block_size, kv_heads, head_dim = key_cache.shape
    positions = (context_lens.to(torch.int64) - 1).clamp(min=0)
    slots = newest_slots(block_tables, context_lens, block_size)
    shape = (num_heads, kv_heads, head_dim)
    q = rope_append_reference(qkv, table, positions, slots, key_cache, value_cache, *shape, q_norm, k_norm, eps)
    return paged_decode_attention_reference(
        q, key_cache, value_cache, block_tables, context_lens, scale=scale, sliding_window=sliding_window
    )


def newest_slots(block_tables: Tensor, context_lens: Tensor, block_size: int) -> Tensor:
    """Where each request's newest token lies in the cache, [requests], int64: block x block_size + offset.

    -1 for a request of length 0; tables and lengths as of `paged_decode_attention`.
    """
    positions = (context_lens.to(torch.int64) - 1).clamp(min=0)
    blocks = block_tables.gather(1, (positions // block_size)[:, None]).squeeze(1).to(torch.int64)
    return torch.where(context_lens > 0, blocks * block_size + positions % block_size, -1)


def append_and_attend_triton(
    qkv: Tensor,
    table: Tensor | None,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    num_heads: int,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    *,
    order: Tensor | None = None,
    scale: float | None = None,
    sliding_window: int | None = None,
    tiles: DecodeTiles | None = None,
) -> Tensor:
    """The same in one Triton kernel. Its grid depends on shapes alone; launch it on one stream at a time."""
    caches = (key_cache, value_cache, block_tables, context_lens)
    new = NewTokens(table, q_norm, k_norm, eps)
    return launch_decode(qkv, num_heads, key_cache.shape[-1], *caches, order, scale, sliding_window, tiles, new)
