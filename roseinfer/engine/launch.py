"""A step under way: what the next one may feed on, and what the host will read."""

from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.engine.request import Request, TokenLogprobs


class Drawn(NamedTuple):
    """The newest tokens that a step draws, on the device: the next step can take them before the host has read them."""

    tokens: Tensor
    """[rows or more], int64."""
    rows: dict[Request, int]
    """Which is whose."""


class Launch:
    """A step that was launched. On a GPU it may still run."""

    def __init__(self, drawn: Tensor, num_rows: int, logprobs: list[TokenLogprobs | None] | None = None) -> None:
        """`drawn` [decode steps, `num_rows` or more] are all the tokens that it draws."""
        self.logprobs = logprobs
        """One for each token; None where nobody asks."""
        self._num_rows = num_rows
        self._tokens, self._is_done = drawn, None
        if drawn.is_cuda:
            # Into pinned memory of its own: the next launch may overwrite what was drawn.
            self._tokens = torch.empty(drawn.shape, dtype=drawn.dtype, pin_memory=True)
            self._tokens.copy_(drawn, non_blocking=True)
            self._is_done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._is_done.record()

    def tokens(self) -> list[int]:
        """Wait until it is done; its tokens, those of one decode step after those of the one before."""
        if self._is_done is not None:
            self._is_done.synchronize()
        tokens: list[int] = self._tokens[:, : self._num_rows].flatten().tolist()
        return tokens
