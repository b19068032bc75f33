"""Memory of a GPU that other ranks' GPUs read and write, mapped by CUDA IPC."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from roseinfer.distributed.rank_messages import decoded, encoded
from roseinfer.kernels.ranks.joined_norm import WORD_ELEMENTS, PeerRows, peer_words

_MAX_BYTES = 1 << 21
"""Maximum bytes of a join by peer memory. On two H200, NCCL takes four times as long at 1 MB and 1.3 times at 16 MB."""

_MIN_SIZE = 256
"""Minimum elements of a row: a kernel polls two words per thread."""

_MAX_DRAWS = 1024
"""Maximum rows of an argmax."""

_STORAGE_DEVICE = 6
"""Index of the device among what torch needs to open an IPC handle."""


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


class PeerMemory(NamedTuple):
    """Addresses and counters with which the kernels of one rank exchange data with the others."""

    rows: PeerRows
    """For partial results, one row per token."""
    keys: PeerRows
    """For the largest logits, one word per row."""
    opened: list[Tensor]
    """Memory of other ranks, which stays mapped while these tensors exist."""

    def abort(self) -> None:
        """End all waits of this rank's kernels."""
        self.rows.abort.fill_(1)
        self.keys.abort.fill_(1)


def new_peer_memory(group: Exchanges, size: int, dtype: torch.dtype) -> PeerMemory | None:
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
    opened: list[Tensor] = []
    rows = _new_rows(group, size, _MAX_BYTES // (size * dtype.itemsize), opened)
    keys = _new_rows(group, WORD_ELEMENTS, _MAX_DRAWS, opened)
    return None if rows is None or keys is None else PeerMemory(rows, keys, opened)


def _new_rows(group: Exchanges, size: int, max_rows: int, opened: list[Tensor]) -> PeerRows | None:
    words = peer_words(group.size, size, max(max_rows, 1), group.device)
    torch.cuda.synchronize(group.device)  # cleared before another rank writes to it
    try:
        own = _shared(words)
        payloads = group.exchange(encoded(plain_parts(own[1])))
        every = [_opened(payload, rank, group, words, own) for rank, payload in enumerate(payloads)]
    except RuntimeError:  # containers may forbid IPC
        every = []
    if not group.least(bool(every)):
        return None
    opened += every
    addresses = [tensor.data_ptr() for tensor in every]
    return PeerRows.of(group.rank, group.size, size, max(max_rows, 1), words, addresses)


Plain = bytes | bool | int | None
"""A part of what opens a tensor that is sent to other ranks."""

_Shared = tuple[Any, tuple[Any, ...]]
"""A function that opens the memory of a tensor in another process, and its arguments."""


def _shared(words: Tensor) -> _Shared:
    from torch.multiprocessing import reductions

    reduce: Any = reductions.reduce_tensor
    shared: _Shared = reduce(words)
    return shared


def plain_parts(arguments: tuple[Any, ...]) -> list[Plain]:
    """Return the handles and offsets among what opens a tensor; None for its types and sizes, which all ranks share."""
    return [part if isinstance(part, bytes | int) else None for part in arguments]


def with_parts(arguments: tuple[Any, ...], parts: list[Plain]) -> list[Any]:
    """Return the arguments that open another rank's tensor, from those of this rank's own and the other's parts."""
    return [own if part is None else part for own, part in zip(arguments, parts, strict=True)]


def _opened(payload: bytes, rank: int, group: Exchanges, words: Tensor, own: _Shared) -> Tensor:
    """Return the memory of a rank, mapped by this process's own GPU."""
    if rank == group.rank:
        return words
    rebuild, arguments = own
    theirs = with_parts(arguments, decoded(payload, list[Plain]))
    theirs[_STORAGE_DEVICE] = group.device.index
    tensor: Tensor = rebuild(*theirs)
    return tensor
