"""The token with the largest logit, of logits that are divided among ranks by vocabulary."""

import torch
from torch import Tensor

from roseinfer.kernels.ranks.peer_rows import PeerRows
from roseinfer.kernels.ranks.peer_words import clear_words, poll_words, push_words
from roseinfer.kernels.runtime import gdc_launch_dependents, gdc_wait, launch_options, tl, triton
from roseinfer.kernels.sampling.argmax import has_largest_keys, largest_keys

_LANES = 64
"""Lanes of a program, which all send the same word: two per thread are polled at a time."""


def joins_argmax(memory: PeerRows, logits: Tensor) -> bool:
    """True if `joined_argmax` takes these logits."""
    return len(logits) <= memory.max_rows and has_largest_keys(logits)


def joined_argmax(memory: PeerRows, logits: Tensor, first: int) -> Tensor:
    """Return the token with the largest logit of each row over all ranks, [rows], int64. The lowest of equals wins.

    logits: [rows, tokens] of this rank, whose first token is `first`. `memory` has rows of one word. All ranks must
    call this with as many rows, in the same order.
    """
    keys = largest_keys(logits)
    tokens = torch.empty_like(keys)
    _all_gather_argmax_kernel[(len(keys),)](
        keys,
        tokens,
        memory.words,
        memory.addresses,
        memory.counters,
        memory.failed,
        memory.abort.data_ptr(),
        first,
        memory.max_rows,
        RANK=memory.rank,
        RANKS=memory.ranks,
        LANES=_LANES,
        num_warps=1,
        **launch_options(keys),
    )
    return tokens


@triton.jit
def _all_gather_argmax_kernel(
    keys,
    tokens,
    mine,
    addresses,
    counters,
    failed,
    abort,
    first,
    max_rows,
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    LANES: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0)
    lane = tl.arange(0, LANES)
    if PDL:
        gdc_wait()
    slot = tl.load(counters + row)
    gave_up = tl.load(failed)
    # A key ends with the complement of its column. The bit below that is 0, so no key is the sentinel.
    best = tl.load(keys + row + 0 * lane) - first
    for peer in tl.static_range(RANKS):
        if peer != RANK:
            theirs = tl.load(addresses + peer).to(tl.pointer_type(tl.int64))
            push_words(theirs + (slot * RANKS + RANK) * max_rows + row + 0 * lane, best)
    if PDL:
        gdc_launch_dependents()
    for source in tl.static_range(RANKS):
        if source != RANK:
            key, late = poll_words(mine + (slot * RANKS + source) * max_rows + row + 0 * lane, abort, gave_up)
            tl.store(failed + 0 * lane, 1, mask=late != 0)
            clear_words(mine + ((slot + 2) % 3 * RANKS + source) * max_rows + row + 0 * lane)
            best = tl.maximum(best, key)
    tl.store(tokens + row + 0 * lane, 0x7FFFFFFF - (best & 0x7FFFFFFF))
    tl.debug_barrier()  # every thread has read the counter
    tl.store(counters + row, (slot + 1) % 3)
