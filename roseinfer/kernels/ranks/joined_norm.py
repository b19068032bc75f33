"""The sum of all ranks' partial results, the residual addition and the norm after it, in one kernel.

Each rank pushes its rows into the memory of the others and waits for theirs, row by row. Sums are taken in the order of
the ranks, so all ranks get the same bits.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.kernels.norms import Norm, add_layer_norm_reference, add_rms_norm_reference
from roseinfer.kernels.ranks.peer_words import (
    SENTINEL,
    clear_words,
    element,
    packed,
    poll_words,
    push_words,
    rounded,
    without_sentinel,
)
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)

WORD_ELEMENTS = 4
_SLOTS = 3
"""Each exchange uses the next slot. A rank clears the slot that it read before, which others write two exchanges later:
not before they have this rank's data of the next exchange."""


class PeerRows(NamedTuple):
    """Memory in which the ranks exchange rows of one size."""

    rank: int
    ranks: int
    size: int
    """Elements per row."""
    max_rows: int
    words: Tensor
    """This rank's memory: [slots, ranks, rows, words], int64."""
    addresses: Tensor
    """Address of each rank's `words`, as this rank's GPU maps it: [ranks], int64."""
    counters: Tensor
    """Slot of the next exchange, per row: [rows], int32."""
    failed: Tensor
    """1 once a wait was given up, [1], int32. Kernels then wait no longer."""
    abort: Tensor
    """1 to end all waits, [1], int32, in pinned memory of the host."""

    @classmethod
    def of(cls, rank: int, ranks: int, size: int, max_rows: int, words: Tensor, addresses: list[int]) -> "PeerRows":
        """Return the memory of a rank, from its cleared `words` and all ranks' addresses."""
        device = words.device
        return cls(
            rank,
            ranks,
            size,
            max_rows,
            words,
            torch.tensor(addresses, dtype=torch.int64, device=device),
            torch.zeros(max_rows, dtype=torch.int32, device=device),
            torch.zeros(1, dtype=torch.int32, device=device),
            torch.zeros(1, dtype=torch.int32, pin_memory=device.type == "cuda"),
        )


def peer_words(ranks: int, size: int, max_rows: int, device: torch.device) -> Tensor:
    """Return cleared memory for rows of `size` 16-bit elements: [slots, ranks, rows, words]."""
    shape = (_SLOTS, ranks, max_rows, size // WORD_ELEMENTS)
    return torch.full(shape, SENTINEL, dtype=torch.int64, device=device)


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
    rows, size = partial.shape
    words = size // WORD_ELEMENTS
    padded = next_power_of_two(words)
    normed, total = (torch.empty((rows, size), dtype=partial.dtype, device=partial.device) for _ in range(2))
    stream = partial if residual is None else residual
    _all_reduce_norm_kernel[(rows,)](
        _as_words(partial),
        _as_words(stream),
        norm.weight.view(torch.int64),
        (norm.weight if norm.bias is None else norm.bias).view(torch.int64),
        normed.view(torch.int64),
        total.view(torch.int64),
        memory.words,
        memory.addresses,
        memory.counters,
        memory.failed,
        memory.abort.data_ptr(),
        norm.eps,
        partial.stride(0) // WORD_ELEMENTS,
        stream.stride(0) // WORD_ELEMENTS,
        memory.max_rows,
        RANK=memory.rank,
        RANKS=memory.ranks,
        WORDS=words,
        PADDED=padded,
        HAS_RESIDUAL=residual is not None,
        HAS_BIAS=norm.bias is not None,
        CENTERED=norm.centered,
        DTYPE=tl.bfloat16 if partial.dtype == torch.bfloat16 else tl.float16,
        num_warps=min(max(padded // 64, 1), 16),
        **launch_options(partial),
    )
    return normed, total


def _as_words(x: Tensor) -> Tensor:
    """View 16-bit elements, whose rows may be apart, as words."""
    return x.view(torch.int64)


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
    RANK: tl.constexpr,
    RANKS: tl.constexpr,
    WORDS: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CENTERED: tl.constexpr,
    DTYPE: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PADDED)
    inside = lane < WORDS
    # Lanes after the row repeat its last word. Neighboring lanes send neighboring words.
    word = tl.max_contiguous(tl.minimum(lane, WORDS - 1), 1)
    scale = tl.load(weight + word)
    if HAS_BIAS:
        shift = tl.load(bias + word)
    if PDL:
        gdc_wait()
    slot = tl.load(counters + row)
    gave_up = tl.load(failed)
    own = without_sentinel(tl.load(partial + row * partial_stride + word))
    at = row * WORDS + word
    area = max_rows.to(tl.int64) * WORDS
    for peer in tl.static_range(RANKS):
        if peer != RANK:
            theirs = tl.load(addresses + peer).to(tl.pointer_type(tl.int64))
            push_words(theirs + (slot * RANKS + RANK) * area + at, own)
    if PDL:
        gdc_launch_dependents()
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
        x0 += element(words, 0, DTYPE)
        x1 += element(words, 1, DTYPE)
        x2 += element(words, 2, DTYPE)
        x3 += element(words, 3, DTYPE)
    if HAS_RESIDUAL:
        before = tl.load(residual + row * residual_stride + word)
        x0 += element(before, 0, DTYPE)
        x1 += element(before, 1, DTYPE)
        x2 += element(before, 2, DTYPE)
        x3 += element(before, 3, DTYPE)
    x0 = rounded(x0, DTYPE)
    x1 = rounded(x1, DTYPE)
    x2 = rounded(x2, DTYPE)
    x3 = rounded(x3, DTYPE)
    tl.store(total + at, packed(x0, x1, x2, x3, DTYPE), mask=inside)
    if CENTERED:
        mean = tl.sum(tl.where(inside, x0 + x1 + x2 + x3, 0.0), 0) / (WORDS * 4)
        x0 -= mean
        x1 -= mean
        x2 -= mean
        x3 -= mean
    squares = tl.sum(tl.where(inside, x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3, 0.0), 0)
    factor = tl.rsqrt(squares / (WORDS * 4) + eps)
    x0 = x0 * factor * element(scale, 0, DTYPE)
    x1 = x1 * factor * element(scale, 1, DTYPE)
    x2 = x2 * factor * element(scale, 2, DTYPE)
    x3 = x3 * factor * element(scale, 3, DTYPE)
    if HAS_BIAS:
        x0 += element(shift, 0, DTYPE)
        x1 += element(shift, 1, DTYPE)
        x2 += element(shift, 2, DTYPE)
        x3 += element(shift, 3, DTYPE)
    tl.store(normed + at, packed(x0, x1, x2, x3, DTYPE), mask=inside)
    tl.debug_barrier()  # every thread has read the counter
    tl.store(counters + row, (slot + 1) % 3)
