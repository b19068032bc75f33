"""Memory in which the ranks exchange rows of words."""

from typing import NamedTuple

import torch
from torch import Tensor

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
    """This rank's memory: [slots, ranks, rows, words per row] in one dimension, int64."""
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
        """Return the memory of a rank, from `num_peer_words` words full of `SENTINEL`, and all ranks' addresses."""
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


def num_peer_words(ranks: int, size: int, max_rows: int) -> int:
    """Return the words of memory for rows of `size` 16-bit elements: slots x ranks x rows x words per row."""
    return _SLOTS * ranks * max_rows * (size // WORD_ELEMENTS)
