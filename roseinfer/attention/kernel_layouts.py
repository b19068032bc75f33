"""The step layout as the paged kernels read it: block tables, lengths and query starts on the device."""

from collections.abc import Sequence
from itertools import chain, takewhile

import numpy as np
import numpy.typing as npt

from roseinfer.attention.step_layouts import (
    DecodeLayout,
    DensePrompts,
    DenseRun,
    MixedLayout,
    PromptLayout,
    StepLayout,
)
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.dense_attention import dense_count, dense_length
from roseinfer.kernels.runtime import next_power_of_two
from roseinfer.upload import upload

_MIN_TABLE_WIDTH = 16


def kernel_layout(layout: StepLayout, cache: KVCache, *, dense: bool = False) -> MixedLayout | DecodeLayout:
    """Upload the layout in one copy. A step of decodes alone becomes a DecodeLayout.

    With `dense`, long prompts without cached tokens are also described as `DensePrompts`.
    """
    # One-token requests after a longer one count as prompts: the prefill kernel takes any length, and each of the two
    # groups stays a slice of the packed tokens. Schedulers put running requests first, so such requests are rare.
    query_lens = np.array(layout.query_lens, dtype=np.int32)
    longer = np.flatnonzero(query_lens > 1)
    count = int(longer[0]) if len(longer) else len(query_lens)
    context_lens = query_lens + np.array(layout.context_lens, dtype=np.int32)
    starts = np.full(len(query_lens) - count + 1, count, dtype=np.int32)
    starts[1:] += query_lens[count:].cumsum(dtype=np.int32)
    order = np.argsort(-context_lens[:count], kind="stable").astype(np.int32)
    runs = dense_runs(layout.query_lens, layout.context_lens, count) if dense else ()
    sources, rest_lens, rest_starts = _rest(layout, count, runs)
    last = list(layout.last or ())
    (
        decode_tables,
        decode_lens,
        decode_order,
        prompt_tables,
        prompt_lens,
        query_starts,
        last_tables,
        last_lens,
        *rest,
    ) = upload(
        layout.slots.device,
        padded_tables(layout.block_tables[:count]),
        context_lens[:count],
        order,
        padded_tables(layout.block_tables[count:]),
        context_lens[count:],
        starts,
        padded_tables([layout.block_tables[at] for at in last]),
        context_lens[last],
        *((padded_tables([layout.block_tables[at] for at in sources]), rest_lens, rest_starts) if sources else ()),
    )
    if len(longer) == 0:
        return DecodeLayout(cache, decode_tables, decode_lens, decode_order, layout.slots)
    decodes = DecodeLayout(cache, decode_tables, decode_lens, decode_order) if count else None
    longest = int(query_lens.max())
    parts = None
    if runs:
        parts = DensePrompts(runs, PromptLayout(rest[0], rest[1], rest[2], longest) if rest else None)
    prompts = PromptLayout(prompt_tables, prompt_lens, query_starts, longest, parts)
    last_tokens = None if layout.last is None else DecodeLayout(cache, last_tables, last_lens)
    return MixedLayout(cache, layout.slots, decodes, prompts, last_tokens)


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
        alike = 1
        if length == tokens:
            alike = _num_alike(query_lens[at:], context_lens[at:])
        prompts = dense_count(alike, length)
        if prompts:
            runs.append(DenseRun(row, prompts, length))
        at += max(prompts, 1)
        row += max(prompts, 1) * tokens
    return tuple(runs)


def _num_alike(query_lens: Sequence[int], context_lens: Sequence[int]) -> int:
    """Return how many leading requests have no cached tokens and as many new ones as the first."""
    same = (new == query_lens[0] and past == 0 for new, past in zip(query_lens, context_lens, strict=True))
    return sum(1 for _ in takewhile(bool, same))


def _rest(
    layout: StepLayout, first: int, runs: Sequence[DenseRun]
) -> tuple[list[int], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return `DensePrompts.rest` on the host: index of each part's request, context lengths and query starts.

    The list of requests is empty if the runs leave nothing.
    """
    sources: list[int] = []
    contexts: list[int] = []
    row = sum(layout.query_lens[:first])
    starts = [row]
    dense = {run.first + at * run.length: run.length for run in runs for at in range(run.prompts)}
    for at in range(first, len(layout.query_lens)):
        tokens, skipped = layout.query_lens[at], dense.get(row, 0)
        if skipped:
            sources.append(at)
            contexts.append(0)
            starts.append(row + skipped)
        if tokens > skipped:
            sources.append(at)
            contexts.append(layout.context_lens[at] + tokens)
            starts.append(row + tokens)
        row += tokens
    if not runs or not any(contexts):
        sources = []
    return sources, np.array(contexts, dtype=np.int32), np.array(starts, dtype=np.int32)


def padded_tables(tables: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    """Return block tables as one array [requests, blocks], padded with block 0.

    The width is a power of two: a Triton kernel is compiled once per class of widths, so few classes are better.
    """
    counts = np.array([len(table) for table in tables], dtype=np.int64)
    width = next_power_of_two(max([_MIN_TABLE_WIDTH, *counts.tolist()]))
    padded = np.zeros((len(tables), width), dtype=np.int32)
    padded[np.arange(width) < counts[:, None]] = np.fromiter(chain.from_iterable(tables), np.int32, counts.sum())
    return padded
