"""The sum of all ranks' partial results, the residual addition and the norm after it, in one kernel.

Each rank pushes its rows into the memory of all others and waits for theirs, row by row. Sums are taken in the order of
the ranks, so all ranks get the same bits.
"""

from typing import Any

import torch
from torch import Tensor

from roseinfer.kernels.norms import Norm, add_layer_norm_reference, add_rms_norm_reference
from roseinfer.kernels.ranks.norm_rows import store_normed, sum_with
from roseinfer.kernels.ranks.peer_rows import WORD_ELEMENTS, PeerRows
from roseinfer.kernels.ranks.peer_words import clear_words, packed, poll_words, push_words, rounded, without_sentinel
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    num_multiprocessors,
    runs_triton,
    tl,
    triton,
)


def joins(memory: PeerRows, partial: Tensor, residual: Tensor | None, norm: Norm) -> bool:
    """True if `joined_norm` takes these tensors."""
    tensors = (partial, residual, norm.weight, norm.bias)
    return (
        len(partial) <= memory.max_rows
        and partial.shape[1] == memory.size
        and all(x is None or (x.dtype == partial.dtype and x.data_ptr() % 8 == 0) for x in tensors)
        and partial.dtype in (torch.bfloat16, torch.float16)
        and all(x is None or x.stride(0) % WORD_ELEMENTS == 0 for x in (partial, residual))
        and runs_triton(*tensors)
    )


def joined_norm_reference(partials: list[Tensor], residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Compute `joined_norm` from the partial results of all ranks, with torch operations."""
    total = partials[0].float()
    for partial in partials[1:]:
        total = total + partial.float()
    if residual is not None:
        total = total + residual.float()
    total = total.to(partials[0].dtype)
    if norm.centered:
        return add_layer_norm_reference(total, None, norm.weight, norm.bias, norm.eps)
    return add_rms_norm_reference(total, None, norm.weight, norm.eps)


def joined_norm(memory: PeerRows, partial: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return (norm of the stream, stream), where the stream is the sum of all ranks' `partial`, plus the residual.

    partial and residual: [rows, size], in 16 bits. All ranks must call this with as many rows, in the same order. The
    sum is computed in float32 and rounded once, before the norm.
    """
    rows = len(partial)
    normed, total = (torch.empty(partial.shape, dtype=partial.dtype, device=partial.device) for _ in range(2))
    # All programs must run at the same time: each waits for the same program of other ranks.
    programs = min(rows, num_multiprocessors(partial.device))
    _all_reduce_norm_kernel[(programs,)](
        *norm_arguments(memory, partial, residual, norm, normed, total),
        LOOPED=programs < rows,
        **norm_options(memory, partial, residual, norm),
    )
    return normed, total


def norm_arguments(
    memory: PeerRows, partial: Tensor, residual: Tensor | None, norm: Norm, normed: Tensor, total: Tensor
) -> tuple[Any, ...]:
    """Return the first arguments of kernels that join rows, up to the number of rows. Tensors are viewed as words."""
    stream = partial if residual is None else residual
    bias = norm.weight if norm.bias is None else norm.bias
    return (
        *(x.view(torch.int64) for x in (partial, stream, norm.weight, bias, normed, total)),
        memory.words,
        memory.addresses,
        memory.counters,
        memory.failed,
        memory.abort.data_ptr(),
        norm.eps,
        partial.stride(0) // WORD_ELEMENTS,
        stream.stride(0) // WORD_ELEMENTS,
        memory.max_rows,
        len(partial),
    )


def norm_options(memory: PeerRows, partial: Tensor, residual: Tensor | None, norm: Norm) -> dict[str, Any]:
    """Return the constants and options of kernels that join rows: two words per thread of a program."""
    words = partial.shape[1] // WORD_ELEMENTS
    padded = next_power_of_two(words)
    return {
        "RANK": memory.rank,
        "RANKS": memory.ranks,
        "HAS_RESIDUAL": residual is not None,
        "WORDS": words,
        "PADDED": padded,
        "HAS_BIAS": norm.bias is not None,
        "CENTERED": norm.centered,
        "DTYPE": tl.bfloat16 if partial.dtype == torch.bfloat16 else tl.float16,
        "num_warps": min(max(padded // 64, 1), 16),
        **launch_options(partial),
    }


@triton.jit
def _all_reduce_norm_kernel(
    partial,
    residual,
    weight,
    bias,
    normed,
    total,
    mine,
    addresses,
    counters,
    failed,
    abort,
    eps,
    partial_stride,
    residual_stride,
    max_rows,
    rows,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    LOOPED: tl.constexpr,
    WORDS: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CENTERED: tl.constexpr,
    DTYPE: tl.constexpr,
    PDL: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PADDED)
    # Lanes after the row repeat its last word. Neighboring lanes send neighboring words.
    word = tl.max_contiguous(tl.minimum(lane, WORDS - 1), 1)
    scale = tl.load(weight + word)
    shift = tl.load(bias + word) if HAS_BIAS else scale
    if PDL:
        gdc_wait()
    gave_up = tl.load(failed)
    area = max_rows.to(tl.int64) * WORDS
    own = _push_row(partial, first, partial_stride, word, addresses, counters, area, RANK, RANKS, WORDS)
    if LOOPED:
        for row in range(first + tl.num_programs(0), rows, tl.num_programs(0)):
            _push_row(partial, row, partial_stride, word, addresses, counters, area, RANK, RANKS, WORDS)
    if PDL:
        gdc_launch_dependents()
    for row in range(first, rows, tl.num_programs(0)):
        if LOOPED:
            own = without_sentinel(tl.load(partial + row * partial_stride + word))
        slot = tl.load(counters + row)
        at = row * WORDS + word
        x0 = tl.zeros((PADDED,), tl.float32)
        x1 = tl.zeros((PADDED,), tl.float32)
        x2 = tl.zeros((PADDED,), tl.float32)
        x3 = tl.zeros((PADDED,), tl.float32)
        for source in tl.static_range(RANKS):
            if source == RANK:
                words = own
            else:
                words, late = poll_words(mine + (slot * RANKS + source) * area + at, abort, gave_up)
                tl.store(failed + 0 * lane, 1, mask=late != 0)
                clear_words(mine + ((slot + 2) % 3 * RANKS + source) * area + at)
            x0, x1, x2, x3 = sum_with(x0, x1, x2, x3, words, DTYPE)
        if HAS_RESIDUAL:
            before = tl.load(residual + row * residual_stride + word)
            x0, x1, x2, x3 = sum_with(x0, x1, x2, x3, before, DTYPE)
        tl.store(total + at, packed(x0, x1, x2, x3, DTYPE), mask=lane < WORDS)
        x0 = rounded(x0, DTYPE)
        x1 = rounded(x1, DTYPE)
        x2 = rounded(x2, DTYPE)
        x3 = rounded(x3, DTYPE)
        store_normed(normed + at, x0, x1, x2, x3, lane < WORDS, scale, shift, eps, WORDS, HAS_BIAS, CENTERED, DTYPE)
        tl.debug_barrier()  # every thread has read the counter
        tl.store(counters + row, (slot + 1) % 3)


@triton.jit
def _push_row(
    partial,
    row,
    stride,
    word,
    addresses,
    counters,
    area,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Send a row to all other ranks. Returns its words."""
    slot = tl.load(counters + row)
    words = without_sentinel(tl.load(partial + row * stride + word))
    for peer in tl.static_range(RANKS):
        if peer != RANK:
            theirs = tl.load(addresses + peer).to(tl.pointer_type(tl.int64))
            push_words(theirs + (slot * RANKS + RANK) * area + row * WORDS + word, words)
    return words
