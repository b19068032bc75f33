"""One step as plain data, from the planner to the runner.

A batch names rows, not requests: the runner keeps block tables, sampling state and drawn tokens by row. A batch can be
serialized with msgspec, so one planner can drive the runners of several ranks.
"""

from typing import NamedTuple

import msgspec

from roseinfer.config import SamplingParams
from roseinfer.engine.graph_sizes import GraphKey

PENDING = -1
"""Token id of a token that an earlier launch is still drawing. The runner replaces it on the device."""


class BlockCopy(NamedTuple):
    """KV block whose contents are copied to another block before the step runs."""

    source: int
    target: int


class RowStart(msgspec.Struct, frozen=True, gc=False):
    """Assignment of a row to a newly admitted request. The row's block table is empty afterwards."""

    row: int
    params: SamplingParams
    seed: int
    """Random seed of the request. With a token's position it determines the draw of that token."""
    num_prompt_tokens: int
    stop_token_ids: list[int]
    """Tokens that are banned before `params.min_new_tokens`; empty without such a minimum."""
    cached_token_ids: list[int]
    """Tokens that the prefix cache supplies, for penalties to count; empty without penalties."""


class BlockTableChange(msgspec.Struct, frozen=True, gc=False):
    """Blocks appended to the block table of a row."""

    row: int
    blocks: list[int]


class StepBatch(msgspec.Struct, frozen=True, gc=False):
    """Everything the runner needs for one step. Unless documented otherwise, lists have one entry per chunk.

    A chunk is the part of one request that the step computes. Its positions are `starts[i]` to
    `starts[i] + lengths[i] - 1`.
    """

    rows: list[int]
    starts: list[int]
    """Position of each chunk's first token."""
    lengths: list[int]
    """Tokens per chunk. In a launch of several decode steps, the number of decode steps."""
    samples: list[bool]
    """True for chunks that end with their request's last token, after which the next token is drawn."""
    token_ids: list[int]
    """Token ids of all chunks, packed in order; `PENDING` for tokens not yet read from the device.

    A launch of several decode steps has one id per chunk: the input of the first decode step.
    """
    decode_steps: int = 1
    """Tokens that each request of a pure decode draws, one after the other, in one launch."""
    graph: GraphKey | None = None
    """CUDA graph that fits the step; None for a step that no graph can run."""
    row_starts: list[RowStart] = []
    """Rows that get a new request, before anything else in the batch applies."""
    block_table_changes: list[BlockTableChange] = []
    block_copies: list[BlockCopy] = []

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes, over all chunks and decode steps."""
        return sum(self.lengths)
