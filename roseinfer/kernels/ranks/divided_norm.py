"""The sum of all ranks' partial results and the norm after it, with the work of summing divided among the ranks.

Each row has an owner. The others push their part of the row to it, and it pushes the sum back. With R ranks, a GPU
sends every row 2 (R - 1) / R times instead of R - 1 times, but waits twice: this pays for many rows of three or more
ranks. All ranks get the sum that the owner computed, so all have the same bits.
"""

import torch
from torch import Tensor

from roseinfer.kernels.norms import Norm
from roseinfer.kernels.ranks.joined_norm import norm_arguments, norm_options
from roseinfer.kernels.ranks.norm_rows import store_normed, sum_with
from roseinfer.kernels.ranks.peer_rows import PeerRows
from roseinfer.kernels.ranks.peer_words import (
    clear_words,
    element,
    packed,
    poll_words,
    push_words,
    without_sentinel,
)
from roseinfer.kernels.runtime import gdc_launch_dependents, gdc_wait, num_multiprocessors, tl, triton


def divided_norm(memory: PeerRows, partial: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Compute `joined_norm`, equal to its reference too. `memory` serves this function only."""
    normed, total = (torch.empty(partial.shape, dtype=partial.dtype, device=partial.device) for _ in range(2))
    groups = -(-len(partial) // memory.ranks)
    # All programs must run at the same time: each waits for the same program of other ranks.
    _divided_norm_kernel[(min(groups, num_multiprocessors(partial.device)),)](
        *norm_arguments(memory, partial, residual, norm, normed, total),
        groups,
        **norm_options(memory, partial, residual, norm),
    )
    return normed, total


@triton.jit
def _divided_norm_kernel(
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
    groups,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    WORDS: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CENTERED: tl.constexpr,
    DTYPE: tl.constexpr,
    PDL: tl.constexpr,
):
    # A group is one row per rank: the rank with the row's number in the group owns it.
    first = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PADDED)
    inside = lane < WORDS
    # Lanes after the row repeat its last word. Neighboring lanes send neighboring words.
    word = tl.max_contiguous(tl.minimum(lane, WORDS - 1), 1)
    scale = tl.load(weight + word)
    shift = tl.load(bias + word) if HAS_BIAS else scale
    if PDL:
        gdc_wait()
    gave_up = tl.load(failed)
    area = max_rows.to(tl.int64) * WORDS

    for group in range(first, groups, tl.num_programs(0)):
        for step in tl.static_range(1, RANKS):
            row = group * RANKS + (RANK + step) % RANKS
            if row < rows:
                slot = tl.load(counters + row)
                theirs = tl.load(addresses + (RANK + step) % RANKS).to(tl.pointer_type(tl.int64))
                own = without_sentinel(tl.load(partial + row * partial_stride + word))
                push_words(theirs + (slot * RANKS + RANK) * area + row * WORDS + word, own)
    if PDL:
        gdc_launch_dependents()

    for group in range(first, groups, tl.num_programs(0)):
        row = group * RANKS + RANK
        if row < rows:
            slot = tl.load(counters + row)
            at = row * WORDS + word
            x0 = tl.zeros((PADDED,), tl.float32)
            x1 = tl.zeros((PADDED,), tl.float32)
            x2 = tl.zeros((PADDED,), tl.float32)
            x3 = tl.zeros((PADDED,), tl.float32)
            for source in tl.static_range(RANKS):
                if source == RANK:
                    words = tl.load(partial + row * partial_stride + word)
                else:
                    words, late = poll_words(mine + (slot * RANKS + source) * area + at, abort, gave_up)
                    tl.store(failed + 0 * lane, 1, mask=late != 0)
                    clear_words(mine + ((slot + 2) % 3 * RANKS + source) * area + at)
                x0, x1, x2, x3 = sum_with(x0, x1, x2, x3, words, DTYPE)
            if HAS_RESIDUAL:
                before = tl.load(residual + row * residual_stride + word)
                x0, x1, x2, x3 = sum_with(x0, x1, x2, x3, before, DTYPE)
            sums = without_sentinel(packed(x0, x1, x2, x3, DTYPE))
            for step in tl.static_range(1, RANKS):
                theirs = tl.load(addresses + (RANK + step) % RANKS).to(tl.pointer_type(tl.int64))
                push_words(theirs + (slot * RANKS + RANK) * area + at, sums)
            tl.store(total + at, sums, mask=inside)
            _store_norm(normed + at, sums, inside, scale, shift, eps, WORDS, HAS_BIAS, CENTERED, DTYPE)
            tl.debug_barrier()  # every thread has read the counter
            tl.store(counters + row, (slot + 1) % 3)

    for group in range(first, groups, tl.num_programs(0)):
        for step in tl.static_range(1, RANKS):
            row = group * RANKS + (RANK + step) % RANKS
            if row < rows:
                slot = tl.load(counters + row)
                at = row * WORDS + word
                source = (RANK + step) % RANKS
                sums, late = poll_words(mine + (slot * RANKS + source) * area + at, abort, gave_up)
                tl.store(failed + 0 * lane, 1, mask=late != 0)
                clear_words(mine + ((slot + 2) % 3 * RANKS + source) * area + at)
                tl.store(total + at, sums, mask=inside)
                _store_norm(normed + at, sums, inside, scale, shift, eps, WORDS, HAS_BIAS, CENTERED, DTYPE)
                tl.debug_barrier()  # every thread has read the counter
                tl.store(counters + row, (slot + 1) % 3)


@triton.jit
def _store_norm(
    places,
    sums,
    inside,
    scale,
    shift,
    eps,
    WORDS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CENTERED: tl.constexpr,
    DTYPE: tl.constexpr,
):
    x0 = element(sums, 0, DTYPE)
    x1 = element(sums, 1, DTYPE)
    x2 = element(sums, 2, DTYPE)
    x3 = element(sums, 3, DTYPE)
    store_normed(places, x0, x1, x2, x3, inside, scale, shift, eps, WORDS, HAS_BIAS, CENTERED, DTYPE)
