"""Split of a step's tokens between attention over contiguous keys and values and over the block tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from roseinfer.attention.step_layouts import DensePast, DenseRun, StepLayout
from roseinfer.kernels.attention.dense_attention import (
    LENGTH_UNIT,
    dense_ceiling,
    dense_count,
    dense_length,
    dense_past_length,
)

_LEAST_LEADING = 4096
"""Minimum tokens in a run for the rest of their prompt to attend to them by a call of its own."""


@dataclass(frozen=True)
class DenseParts:
    """`DensePrompts` of a step on the host."""

    runs: tuple[DenseRun, ...]
    pasts: tuple[DensePast, ...]
    sources: list[int]
    """Request of each part of `DensePrompts.rest`. Empty if the runs hold all tokens."""
    context_lens: npt.NDArray[np.int32]
    query_starts: npt.NDArray[np.int32]
    first_keys: npt.NDArray[np.int32]


def dense_parts(layout: StepLayout, first: int, block_size: int) -> DenseParts | None:
    """Divide the prompts of a step, from request `first` on. Returns None if the block tables serve all of them."""
    runs = dense_runs(layout.query_lens, layout.context_lens, first)
    in_runs = {run.first + at * run.length: run.length for run in runs for at in range(run.prompts)}
    row = sum(layout.query_lens[:first])
    parts: list[tuple[int, int, int, int]] = []  # request, context, end of its tokens, first key
    pasts: list[DensePast] = []
    for at in range(first, len(layout.query_lens)):
        tokens, context, leading = layout.query_lens[at], layout.context_lens[at], in_runs.get(row, 0)
        if leading:
            parts.append((at, 0, row + leading, 0))
        if tokens > leading:
            past = _past(tokens, context, row, at - first, block_size) if context else _rest(tokens, leading, row)
            if past is not None:
                pasts.append(past)
            parts.append((at, context + tokens, row + tokens, 0 if past is None else past.keys))
        row += tokens
    if not runs and not pasts:
        return None
    is_left = any(context for _, context, _, _ in parts)
    return DenseParts(
        runs,
        tuple(pasts),
        sources=[at for at, _, _, _ in parts] if is_left else [],
        context_lens=np.array([context for _, context, _, _ in parts], dtype=np.int32),
        query_starts=np.array([sum(layout.query_lens[:first]), *(end for _, _, end, _ in parts)], dtype=np.int32),
        first_keys=np.array([key for _, _, _, key in parts], dtype=np.int32),
    )


def dense_runs(query_lens: Sequence[int], context_lens: Sequence[int], first: int) -> tuple[DenseRun, ...]:
    """Return the runs of prompts to compute over contiguous keys and values, from request `first` on.

    Consecutive prompts of the same length form a run if the length is one of `dense_length`. Of any other prompt,
    a run holds the leading tokens. Requests with cached tokens are in no run.
    """
    runs: list[DenseRun] = []
    row, at = sum(query_lens[:first]), first
    while at < len(query_lens):
        tokens = query_lens[at]
        length = 0 if context_lens[at] else dense_length(tokens)
        alike = _num_alike(query_lens[at:], context_lens[at:]) if length == tokens else 1
        prompts = dense_count(alike, length)
        if prompts:
            runs.append(DenseRun(row, prompts, length))
        at += max(prompts, 1)
        row += max(prompts, 1) * tokens
    return tuple(runs)


def _past(tokens: int, context: int, row: int, request: int, block_size: int) -> DensePast | None:
    """Return the part of a chunk's attention that goes to the first of its cached tokens; None if they are too few."""
    keys = dense_past_length(tokens, context) if LENGTH_UNIT % block_size == 0 else 0
    return DensePast(row, tokens, dense_ceiling(tokens), keys, request) if keys else None


def _rest(tokens: int, leading: int, row: int) -> DensePast | None:
    """Return the attention to a prompt's leading tokens, which a run holds, from its other tokens.

    None if the run is short. By the paged kernel, few tokens would take almost as long as many.
    """
    if leading < _LEAST_LEADING:
        return None
    return DensePast(row + leading, tokens - leading, dense_ceiling(leading + 1) - leading, leading, None)


def _num_alike(query_lens: Sequence[int], context_lens: Sequence[int]) -> int:
    """Return how many leading requests have no cached tokens and as many new ones as the first."""
    same = (new == query_lens[0] and past == 0 for new, past in zip(query_lens, context_lens, strict=True))
    return sum(1 for _ in takewhile(bool, same))
