"""Changing logits before sampling: penalties, biases and banned tokens, for a whole batch at once."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.upload import upload


@dataclass(frozen=True)
class History:
    """Tokens of one request that affect its next draw."""

    prompt: Set[int]
    """Tokens that occur in the prompt. Empty if no parameter needs them."""
    completion: Counter[int]
    """Occurrences of each token in the completion. Empty if no parameter needs them."""
    banned: frozenset[int]
    """Tokens that must not be drawn in this step, such as EOS before `min_new_tokens`."""


@dataclass(frozen=True)
class _Elements:
    """Scattered elements of the logits, with a value for each. All three tensors are [elements]."""

    rows: Tensor
    token_ids: Tensor
    values: Tensor


@dataclass(frozen=True)
class LogitChanges:
    """All changes to the logits of a batch. A kind of change that no row needs is None."""

    repetition: _Elements | None
    """Factors of repetition penalties."""
    bias: _Elements | None
    """Summands of biases, presence and frequency penalties. An element may occur more than once."""
    banned: _Elements | None
    """Banned tokens, whose logits become -inf."""

    @classmethod
    def build(
        cls, params: Sequence[SamplingParams], histories: Sequence[History], device: torch.device
    ) -> "LogitChanges | None":
        """Collect the changes of all rows, in the order of the logits. Return None if there are none."""
        repetition: list[tuple[int, int, float]] = []
        bias: list[tuple[int, int, float]] = []
        banned: list[tuple[int, int, float]] = []
        for row, (p, history) in enumerate(zip(params, histories, strict=True)):
            if p.repetition_penalty != 1:
                seen = history.prompt | history.completion.keys()
                repetition += ((row, token_id, p.repetition_penalty) for token_id in seen)
            if p.presence_penalty or p.frequency_penalty:
                bias += (
                    (row, token_id, -p.presence_penalty - p.frequency_penalty * count)
                    for token_id, count in history.completion.items()
                )
            bias += ((row, token_id, value) for token_id, value in p.logit_bias.items())
            banned += ((row, token_id, float("-inf")) for token_id in history.banned)
        if not (repetition or bias or banned):
            return None
        return cls(_elements(repetition, device), _elements(bias, device), _elements(banned, device))

    def apply(self, logits: Tensor) -> Tensor:
        """Return a changed copy of logits [rows, vocab_size], in float32 or a wider type."""
        changed = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        if self.repetition is not None:
            index = (self.repetition.rows, self.repetition.token_ids)
            factors, values = self.repetition.values.to(changed.dtype), changed[index]
            changed[index] = torch.where(values > 0, values / factors, values * factors)
        if self.bias is not None:
            index = (self.bias.rows, self.bias.token_ids)
            changed.index_put_(index, self.bias.values.to(changed.dtype), accumulate=True)
        if self.banned is not None:
            changed[self.banned.rows, self.banned.token_ids] = float("-inf")
        return changed


def _elements(entries: list[tuple[int, int, float]], device: torch.device) -> _Elements | None:
    if not entries:
        return None
    rows, token_ids, values = zip(*entries, strict=True)
    return _Elements(
        *upload(
            device,
            np.array(rows, dtype=np.int64),
            np.array(token_ids, dtype=np.int64),
            np.array(values, dtype=np.float64),
        )
    )
