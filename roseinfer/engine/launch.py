"""A launched step: tokens that the next step may read on the device, and results that the host reads later."""

import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from roseinfer.engine.outputs import TokenLogprobs
from roseinfer.upload import Array


class DrawnTokens(NamedTuple):
    """Last token that a step draws per row, on the device. The next step can use it before the host has read it."""

    tokens: Tensor
    """Token ids, [rows or more], int64. Entries after the last row are padding."""
    rows: Sequence[int]
    """Runner row of each token in `tokens`."""

    def places_of(self, rows: Iterable[int]) -> Array:
        """Return the index in `tokens` of the token of each given row."""
        wanted = list(rows)
        places = {row: place for place, row in enumerate(self.rows)} if wanted else {}
        return np.array([places[row] for row in wanted], dtype=np.int64)


class Launch:
    """A step that was launched. On a GPU it may still run."""

    def __init__(self, drawn: Tensor, num_rows: int, logprobs: list[TokenLogprobs | None] | None = None) -> None:
        """`drawn` holds all tokens that the step draws, [decode steps, `num_rows` or more]."""
        self.logprobs = logprobs
        """Log-probabilities per token, None where the request asks for none. None: no request asks for any."""
        self.guard: Callable[[], AbstractContextManager[None]] = nullcontext
        """Context in which the host waits for the tokens."""
        self.on_tokens: Callable[[list[int]], None] | None = None
        """Called with the tokens when the host has read them."""
        self._num_rows = num_rows
        self._tokens, self._is_done = drawn, None
        if drawn.is_cuda:
            # Pinned memory of this launch's own, because the next launch may overwrite `drawn`.
            self._tokens = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
            self._tokens.copy_(drawn, non_blocking=True)
            self._is_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_done.record()

    def tokens(self) -> list[int]:
        """Wait for the step and return its tokens: those of the first decode step, then of the second, and so on."""
        if self._is_done is not None:
            with self.guard():
                self._is_done.synchronize()
        steps: list[list[int]] = self._tokens[:, : self._num_rows].tolist()
        tokens = steps[0] if len(steps) == 1 else list(chain.from_iterable(steps))
        if self.on_tokens is not None:
            self.on_tokens(tokens)
        return tokens


def checksum_with(checksum: int, tokens: list[int]) -> int:
    """Return the checksum of all tokens drawn so far, from that before the newest ones."""
    return zlib.crc32(array("q", tokens).tobytes(), checksum)
