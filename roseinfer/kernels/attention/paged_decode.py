"""Attention of one new token a request over the paged KV cache (PagedAttention, Kwon et al., 2023).

Each request's keys are cut into splits, so that a small batch fills the device too (Flash-Decoding, Dao et al., 2023);
the split that ends last adds the others up, so that a layer takes one kernel. All query heads that share a key head are
one program's: keys and values are read once. The same kernel can take the new tokens as the fused projection made them:
it norms and turns them itself, and what it adds to the cache it need not read there.
"""

import math

import torch
from torch import Tensor

from roseinfer.kernels.attention.decode_kernel import DecodeTiles, fits, launch_decode
from roseinfer.kernels.cpu import native_kernels


def paged_decode_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    scale: float | None = None,
    sliding_window: int | None = None,
    out: Tensor | None = None,
    beside: bool = False,
) -> Tensor:
    """Each request's newest token attends to all its tokens, itself included.

    q [requests, heads, head_dim]; key_cache and value_cache [num_blocks, block_size, kv_heads, head_dim], any strides
    but the last; block_tables [requests, max_blocks] and context_lens [requests], int32 or int64, the new token
    counted -> [requests, heads, head_dim]. `scale` is head_dim ** -0.5 by default. A request of length 0 gives zeros.
    Table entries past a request's length are not looked at. `order` [requests], int32, is a permutation of the
    requests, in which a GPU starts them; the result is the same. With the longest first, none that takes long begins
    last. The result is in `out` if that is given, contiguous, which keeps its rows of requests of length 0. `beside`
    says that this need not wait for what was launched right before, a paged_prefill_attention of the same step.
    """
    if native_kernels.runs_attention(q, key_cache, value_cache):
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        found = native_kernels.paged_decode_attention(
            q, key_cache, value_cache, block_tables, context_lens, scale, sliding_window
        )
        return found if out is None else _kept(found, context_lens, out)
    chosen = paged_decode_attention_triton if fits(q, key_cache, value_cache) else paged_decode_attention_reference
    arguments = (q, key_cache, value_cache, block_tables, context_lens)
    return chosen(*arguments, order=order, scale=scale, sliding_window=sliding_window, out=out, beside=beside)


def paged_decode_attention_reference(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    scale: float | None = None,
    sliding_window: int | None = None,
    out: Tensor | None = None,
    beside: bool = False,
) -> Tensor:
    """The same with torch operations, over every block of every table, in float32 or float64."""
    requests, heads, head_dim = q.shape
    compute = torch.promote_types(q.dtype, torch.float32)
    positions = torch.arange(block_tables.shape[1] * key_cache.shape[1], device=q.device)
    seen = positions < context_lens[:, None]  # [requests, tokens]
    blocks = torch.where(seen[:, :: key_cache.shape[1]], block_tables, 0)
    if sliding_window is not None:
        seen = seen & (positions >= context_lens[:, None] - sliding_window)
    keys = key_cache[blocks].flatten(1, 2).to(compute)  # [requests, tokens, kv_heads, head_dim]
    values = value_cache[blocks].flatten(1, 2).to(compute).masked_fill(~seen[:, :, None, None], 0)
    grouped = q.to(compute).view(requests, keys.shape[2], -1, head_dim)
    scores = torch.einsum("rkgd,rtkd->rkgt", grouped, keys) * (head_dim**-0.5 if scale is None else scale)
    weights = scores.masked_fill(~seen[:, None, None], -math.inf).softmax(-1).nan_to_num(0)
    found = torch.einsum("rkgt,rtkd->rkgd", weights, values).reshape(requests, heads, head_dim).to(q.dtype)
    return found if out is None else _kept(found, context_lens, out)


def _kept(found: Tensor, context_lens: Tensor, out: Tensor) -> Tensor:
    """Results of requests that have a length, in `out`."""
    return out.copy_(torch.where((context_lens > 0)[:, None, None], found, out))


def paged_decode_attention_triton(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    order: Tensor | None = None,
    scale: float | None = None,
    sliding_window: int | None = None,
    out: Tensor | None = None,
    beside: bool = False,
    tiles: DecodeTiles | None = None,
) -> Tensor:
    """The same in one Triton kernel. Its grid depends on shapes alone; launch it on one stream at a time."""
    caches = (key_cache, value_cache, block_tables, context_lens)
    return launch_decode(
        q, q.shape[1], q.stride(1), *caches, order, scale, sliding_window, tiles, out=out, beside=beside
    )
