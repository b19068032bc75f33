"""The numbers that a step's model call takes, computed for all its chunks at once."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from roseinfer.engine.planner import StepPlan
from roseinfer.engine.request import PENDING

Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepInputs:
    """Packed tokens, chunk after chunk in the plan's order."""

    token_ids: Integers
    """[tokens]."""
    positions: Integers
    """[tokens], of each token in its request."""
    slots: Integers
    """[tokens], where its keys and values go: block x block_size + offset."""
    last_rows: Integers
    """[chunks that sample], the last token of each."""
    pending: Integers
    """Places of tokens that the step before is still drawing: 0 stands there."""
    pending_chunks: Integers
    """The chunks that they belong to."""

    @classmethod
    def of(cls, plan: StepPlan, block_size: int) -> "StepInputs":
        """The inputs of a plan that has begun: the block tables reach to the chunks' ends."""
        chunks = plan.chunks
        token_ids: list[int] = []
        blocks: list[int] = []  # those that the chunks write to, chunk after chunk
        before: list[int] = []  # of each chunk: how much further on in `blocks` they are than in its table
        for chunk in chunks:
            known = chunk.request.token_ids[chunk.start : chunk.stop]
            token_ids += known
            token_ids += [PENDING] * (chunk.num_tokens - len(known))
            first = chunk.start // block_size
            before.append(len(blocks) - first)
            blocks += chunk.request.block_table[first : -(-chunk.stop // block_size)]
        lengths = np.array([chunk.num_tokens for chunk in chunks], dtype=np.int64)
        ends = lengths.cumsum()
        starts = np.array([chunk.start for chunk in chunks], dtype=np.int64)
        positions = np.arange(len(token_ids)) + np.repeat(starts - ends + lengths, lengths)
        places = positions // block_size + np.repeat(np.array(before, dtype=np.int64), lengths)
        tokens = np.array(token_ids, dtype=np.int64)
        pending = np.flatnonzero(tokens == PENDING)
        tokens[pending] = 0
        return cls(
            token_ids=tokens,
            positions=positions,
            slots=np.array(blocks, dtype=np.int64)[places] * block_size + positions % block_size,
            last_rows=ends[[chunk.samples for chunk in chunks]] - 1,
            pending=pending,
            pending_chunks=ends.searchsorted(pending, side="right"),
        )
