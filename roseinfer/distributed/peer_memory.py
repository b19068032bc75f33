"""Memory of a GPU to which other ranks' GPUs write, and the kernels that exchange data through it."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from roseinfer.distributed.gpu_ipc import MappedMemory, exported
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.ranks.divided_norm import divided_norm
from roseinfer.kernels.ranks.joined_norm import joined_norm, joins
from roseinfer.kernels.ranks.peer_rows import WORD_ELEMENTS, PeerRows, num_peer_words
from roseinfer.kernels.ranks.peer_words import SENTINEL

_MIN_SIZE = 256
"""Minimum elements of a row: a kernel polls two words per thread."""

_MAX_DRAWS = 1024
"""Maximum rows of an argmax."""


class Exchanges(Protocol):
    """The part of a `RankGroup` by which ranks tell each other where their memory is."""

    rank: int
    size: int
    device: torch.device

    def least(self, value: int) -> int:
        """Return the smallest of the ranks' values."""
        ...

    def exchange(self, payload: bytes) -> list[bytes]:
        """Return the payloads of all ranks, by rank."""
        ...


class JoinLimits(NamedTuple):
    """Joins that use peer memory, by the bytes of a rank's partial result."""

    whole_bytes: int
    """Maximum bytes of a join in which every rank sends everything to every other."""
    divided_bytes: int
    """Maximum bytes of a join in which every rank sums some of the rows. Larger joins are the library's."""

    @classmethod
    def of(cls, ranks: int) -> "JoinLimits":
        """Return the limits for a number of ranks.

        Two ranks send as many bytes either way. On four H200, dividing is faster from 1 MB on.
        """
        return cls(_MAX_BYTES, 0) if ranks == 2 else cls((2 << 20) // ranks, _MAX_BYTES)


_MAX_BYTES = 16 << 20
"""Maximum bytes of a join by peer memory. At this size, NCCL takes 1.03 times as long on two H200, 1.15 on four."""


class PeerMemory(NamedTuple):
    """Addresses and counters with which the kernels of one rank exchange data with the others."""

    whole: PeerRows
    """For joins in which every rank sends everything to every other; one row per token."""
    divided: PeerRows
    """For joins in which every rank sums some of the rows."""
    keys: PeerRows
    """For the largest logits, one word per row."""
    mapped: list[MappedMemory]
    """Memory of other ranks."""

    def join(self, partial: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor] | None:
        """Return the norm of the stream and the stream, as `RankGroup.join`; None if the kernels do not take these."""
        if joins(self.whole, partial, residual, norm):
            return joined_norm(self.whole, partial, residual, norm)
        if joins(self.divided, partial, residual, norm):
            return divided_norm(self.divided, partial, residual, norm)
        return None

    def abort(self) -> None:
        """End all waits of this rank's kernels."""
        for rows in (self.whole, self.divided, self.keys):
            rows.abort.fill_(1)


def new_peer_memory(
    group: Exchanges, size: int, dtype: torch.dtype, limits: JoinLimits | None = None
) -> PeerMemory | None:
    """Return memory for joins of rows of `size` elements.

    None if the GPUs cannot access each other, or the kernels do not take such rows. All ranks call this together.
    """
    fits = dtype in (torch.bfloat16, torch.float16) and size % WORD_ELEMENTS == 0 and size >= _MIN_SIZE
    here = group.device.index
    reaches = all(
        torch.cuda.can_device_access_peer(here, other) for other in range(torch.cuda.device_count()) if other != here
    )
    if not group.least(fits and reaches):
        return None
    whole_bytes, divided_bytes = limits or JoinLimits.of(group.size)
    row_bytes = size * dtype.itemsize
    shapes = [(size, whole_bytes // row_bytes), (size, divided_bytes // row_bytes), (WORD_ELEMENTS, _MAX_DRAWS)]
    counts = [num_peer_words(group.size, *shape) for shape in shapes]
    words = torch.full((sum(counts),), SENTINEL, dtype=torch.int64, device=group.device)
    torch.cuda.synchronize(group.device)  # cleared before another rank writes to it
    mapped, addresses = _mapped(group, words)
    if not group.least(len(addresses) == group.size):
        return None
    areas = []
    start = 0
    for (width, max_rows), count in zip(shapes, counts, strict=True):
        starts = [address + start * words.itemsize for address in addresses]
        areas.append(PeerRows.of(group.rank, group.size, width, max_rows, words[start : start + count], starts))
        start += count
    return PeerMemory(areas[0], areas[1], areas[2], mapped)


def _mapped(group: Exchanges, words: Tensor) -> tuple[list[MappedMemory], list[int]]:
    """Map the memory of all other ranks. Returns its mappings and the addresses of all ranks' words, by rank.

    Both are empty if this rank's memory cannot be shared, as in some containers, and incomplete if another's cannot.
    """
    mapped: list[MappedMemory] = []
    addresses: list[int] = []
    try:
        own = exported(words)
    except RuntimeError:
        own = b""
    payloads = group.exchange(own)
    if b"" in payloads:
        return mapped, addresses
    try:
        for rank, payload in enumerate(payloads):
            if rank == group.rank:
                addresses.append(words.data_ptr())
            else:
                mapped.append(MappedMemory(payload))
                addresses.append(mapped[-1].address)
    except RuntimeError:
        addresses = []
    return mapped, addresses
