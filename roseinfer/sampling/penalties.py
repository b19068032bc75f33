"""What changes logits before a token is drawn from them: penalties, biases and bans, for a whole batch at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roseinfer.config import SamplingParams
from roseinfer.upload import upload


@dataclass(frozen=True)
class History:
    """What the draw of one row depends on besides its parameters."""

    prompt: frozenset[int]
    """Tokens that occur in the prompt; empty where no parameter asks."""
    completion: Counter[int]
    """How often each token occurs in the completion; empty where no parameter asks."""
    banned: frozenset[int]
    """Tokens that may not come now."""


@dataclass(frozen=True)
class _Places:
    """Scattered places of the logits and a value for each: [places] each."""

    rows: Tensor
    token_ids: Tensor
    values: Tensor


@dataclass(frozen=True)
class LogitChanges:
    """All changes of a batch, as places in its logits; None where no row asks for a kind."""

    repetition: _Places | None
    """Factors."""
    bias: _Places | None
    """Summands: biases, presence and frequency penalties. A place may occur more than once."""
    banned: _Places | None

    @classmethod
    def build(
        cls, params: Sequence[SamplingParams], histories: Sequence[History], device: torch.device
    ) -> "LogitChanges | None":
        """Of the rows in the order of the logits; None when no row changes anything."""
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
        return cls(_places(repetition, device), _places(bias, device), _places(banned, device))

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [rows, vocab_size] -> changed logits, in float32 at least; the argument stays as it is."""
        changed = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        if self.repetition is not None:
            place = (self.repetition.rows, self.repetition.token_ids)
            factors, values = self.repetition.values.to(changed.dtype), changed[place]
            changed[place] = torch.where(values > 0, values / factors, values * factors)
        if self.bias is not None:
            place = (self.bias.rows, self.bias.token_ids)
            changed.index_put_(place, self.bias.values.to(changed.dtype), accumulate=True)
        if self.banned is not None:
            changed[self.banned.rows, self.banned.token_ids] = float("-inf")
        return changed


def _places(entries: list[tuple[int, int, float]], device: torch.device) -> _Places | None:
    if not entries:
        return None
    rows, token_ids, values = zip(*entries, strict=True)
    return _Places(
        *upload(
            device,
            np.array(rows, dtype=np.int64),
            np.array(token_ids, dtype=np.int64),
            np.array(values, dtype=np.float64),
        )
    )
