"""Model inputs of one step, computed for all chunks at once."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from roseinfer.engine.step_batch import PENDING, StepBatch

Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepInputs:
    """Model inputs of one step, for tokens packed chunk after chunk."""

    token_ids: Integers
    """Token ids, 0 in place of pending tokens: [tokens]."""
    positions: Integers
    """Position of each token in its request: [tokens]."""
    slots: Integers
    """Cache slots of each token's keys and values: block x block_size + offset, [groups of layers, tokens]."""
    last_rows: Integers
    """Index in `token_ids` of the last token of each chunk that samples: [chunks that sample]."""
    pending: Integers
    """Indexes in `token_ids` of tokens that the previous launch is still drawing."""
    pending_chunks: Integers
    """Index, in the batch, of the chunk of each pending token."""

    @classmethod
    def of(
        cls,
        batch: StepBatch,
        block_tables: Sequence[Sequence[int]],
        block_size: int,
        order: Sequence[int] | None = None,
        *,
        num_groups: int = 1,
    ) -> "StepInputs":
        """Compute the inputs of a batch of one decode step.

        `block_tables` has one table per chunk, with the blocks of `num_groups` groups of layers up to the chunk's end.
        `order` has the indexes of the chunks in packing order; None is the batch's own order.
        """
        token_ids = batch.token_ids if order is None else _reordered_tokens(batch, order)
        order = range(len(batch.rows)) if order is None else order
        lengths = np.array([batch.lengths[at] for at in order], dtype=np.int64)
        starts = np.array([batch.starts[at] for at in order], dtype=np.int64)
        ends = lengths.cumsum()
        # struct packs 16,384 ids in half of the time of np.array. The array is read-only.
        tokens = np.frombuffer(struct.pack(f"{len(token_ids)}q", *token_ids), dtype=np.int64)
        pending = np.flatnonzero(tokens == PENDING)
        if len(pending):
            tokens = np.maximum(tokens, 0)
        blocks: list[int] = []  # blocks that the chunks write to, chunk after chunk
        shifts: list[int] = []  # per chunk: index in `blocks` minus index in the chunk's own table, in one group
        for at in order:
            start = batch.starts[at]
            first = start // block_size
            shifts.append(len(blocks) // num_groups - first)
            last = -(-(start + batch.lengths[at]) // block_size)
            blocks += block_tables[at][first * num_groups : last * num_groups]
        # Computed in place: each new array of 16,384 tokens costs page faults.
        positions = np.arange(len(tokens))
        positions += np.repeat(starts - ends + lengths, lengths)
        indexes = positions // block_size  # of the tokens' blocks in their chunks' own tables
        places = np.repeat(np.array(shifts, dtype=np.int64), lengths)
        places += indexes
        slots = np.array(blocks, dtype=np.int64).reshape(-1, num_groups).T.take(places, axis=1)
        # slots * block_size + positions % block_size, without the remainder, which takes longer than all of this.
        slots -= indexes
        slots *= block_size
        slots += positions
        chunks = np.array(order, dtype=np.int64)
        return cls(
            token_ids=tokens,
            positions=positions,
            slots=slots,
            last_rows=ends[[batch.samples[at] for at in order]] - 1,
            pending=pending,
            pending_chunks=chunks[ends.searchsorted(pending, side="right")],
        )


def _reordered_tokens(batch: StepBatch, order: Sequence[int]) -> list[int]:
    """Return the batch's tokens with its chunks in `order`."""
    parts: list[list[int]] = []
    start = 0
    for length in batch.lengths:
        parts.append(batch.token_ids[start : start + length])
        start += length
    return list(chain.from_iterable(parts[at] for at in order))
