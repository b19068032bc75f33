"""Find launch sequences that a step repeats, per layer or per request, and choose a remedy."""

from collections import Counter
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.custom_operators import is_custom
from roseinfer.trace.facts.job_times import JobTimes
from roseinfer.trace.facts.steps import typical_step
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.naming import short_name
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.finding_structs import NO_SPAN, Repetition

_MAX_ROWS = 12
_MAX_PERIOD = 512
_MIN_REMOVABLE = 8
_SHOWN_NAMES = 6
_PRODUCTS = (
    "gemm",
    "gemv",
    "nvjet",
    "cutlass",
    "matmul",
    "flash",
    "attention",
    "fmha",
    "::mm",
    "addmm",
    "linear",
    "_mm",
    "cijk",  # rocBLAS
    "xmma",
)


class Repeat(NamedTuple):
    """A pattern that a sequence repeats. A run is an uninterrupted series of repeats."""

    period: int
    """Number of items in the pattern."""
    first: int
    """Index in the sequence where the longest run begins."""
    repeats: int
    """Number of repeats of the pattern, summed over all runs."""
    removable: int
    """Number of items saved if every run is replaced by a single repeat."""


def find_repeat(sequence: NDArray[np.int64], max_period: int = _MAX_PERIOD) -> Repeat | None:
    """Return the pattern with most removable items, the shortest if several have; None if nothing repeats."""
    best: Repeat | None = None
    for period in range(1, min(max_period, len(sequence) // 2) + 1):
        same = np.concatenate(([False], sequence[period:] == sequence[:-period], [False]))
        edges = np.flatnonzero(same[1:] != same[:-1])
        begins, lengths = edges[::2], edges[1::2] - edges[::2]
        again = lengths // period  # repeats after the first period of the run
        removable = int(again.sum()) * period
        if removable and (best is None or removable > best.removable):
            runs = int(np.count_nonzero(again))
            best = Repeat(period, int(begins[np.argmax(again)]), int(again.sum()) + runs, removable)
    return best


def find_repetition(facts: Facts, durations: JobTimes) -> list[Repetition]:
    """Return the repeated launch sequences of each span in the typical step, those that save most launches first.

    Repeats without other work of the step between them could be one batched launch. Repeats with other work between
    them, such as a model's layers, depend on this work: a graph or a compiler can still reduce their launches. A
    repeated sequence that itself repeats a shorter one, such as requests inside layers, yields a row for each. GPU
    events of graph replays are left out, since they are not launched one by one.
    """
    step = typical_step(facts.steps, durations.of_rank_ns)
    if step is None:
        return []
    names, groups = _launches(facts, step)
    rows: list[Repetition] = []
    for group in np.unique(groups).tolist():
        at = np.flatnonzero(groups == group)
        for repeat, pattern, is_unbroken in _repeats_of(names, at):
            remedy = _remedy([facts.trace.names[index] for index in pattern], is_unbroken, len(facts.trace.gpu) > 0)
            # A compiler or a larger operator fuses the operators of one repeat to one; every repeat remains.
            joined = repeat.repeats * (repeat.period - 1)
            removable = joined if remedy in ("compile", "fuse") else repeat.removable
            rows.append(
                Repetition(
                    span=facts.spans.groups[group] if group >= 0 else NO_SPAN,
                    phase=facts.steps.labels[step].phase,
                    launches_per_step=len(at),
                    pattern=[short_name(facts.trace.names[index], 60) for index in pattern[:_SHOWN_NAMES]],
                    pattern_launches=repeat.period,
                    repeats=repeat.repeats,
                    removable_per_step=removable,
                    remedy=remedy,
                )
            )
    rows = [row for row in rows if row.removable_per_step >= _MIN_REMOVABLE]
    rows.sort(key=lambda row: -row.removable_per_step)
    return rows[:_MAX_ROWS]


def _repeats_of(names: Ints, at: Ints) -> list[tuple[Repeat, tuple[int, ...], bool]]:
    """Return (repeat, names of its pattern, True if no other work is between repeats) for one span's launches.

    `names` are all launches of the step, `at` the indices of the span's own launches.
    """
    sequence = names[at]
    pieces = np.split(sequence, np.flatnonzero(np.diff(at) != 1) + 1)
    found: Counter[tuple[int, ...]] = Counter()
    repeats: Counter[tuple[int, ...]] = Counter()
    known: dict[bytes, list[Repeat]] = {}
    for piece in pieces:
        for repeat in known.setdefault(piece.tobytes(), _levels(piece)):
            pattern = tuple(piece[repeat.first : repeat.first + repeat.period].tolist())
            found[pattern] += repeat.removable
            repeats[pattern] += repeat.repeats
    rows = [
        (Repeat(len(pattern), 0, repeats[pattern], removable), pattern, True) for pattern, removable in found.items()
    ]
    across = find_repeat(sequence) if len(pieces) > 1 else None
    if across is not None and across.removable > max(found.values(), default=0):
        pattern = tuple(sequence[across.first : across.first + across.period].tolist())
        rows.append((across, pattern, False))
    return rows


def _remedy(pattern: list[str], is_unbroken: bool, has_gpu: bool) -> Literal["batch", "graph", "compile", "fuse"]:
    """Return the remedy that reduces the launches of a pattern; `Repetition.remedy` explains the values."""
    if is_unbroken and not any(word in name.lower() for name in pattern for word in _PRODUCTS):
        return "batch"
    if has_gpu:
        return "graph"
    return "fuse" if 2 * sum(is_custom(name) for name in pattern) >= len(pattern) else "compile"


def _launches(facts: Facts, step: int) -> tuple[Ints, Ints]:
    """Return (name, innermost span group) of the step's launches in order: GPU events, or operators without a GPU."""
    trace, spans = facts.trace, facts.spans
    if len(trace.gpu):
        at = np.flatnonzero((facts.event_step == step) & ~facts.attribution.by_graph)
        at = at[np.lexsort((trace.gpu.start_ns[at], facts.attribution.launch_start_ns[at]))]
        group = np.append(spans.group, -1)[facts.attribution.span[at]]
        return trace.gpu.name[at].astype(np.int64), group.astype(np.int64)
    start, end, thread = facts.steps.start_ns[step], facts.steps.end_ns[step], facts.steps.thread[step]
    ops = facts.ops
    inside = (ops.start_ns >= start) & (ops.start_ns < end) & (trace.ops.thread == thread) & (ops.depth == 0)
    at = np.flatnonzero(inside)
    span = spans.innermost_at(trace.ops.thread[at], ops.start_ns[at])
    return trace.ops.name[at].astype(np.int64), np.append(spans.group, -1)[span].astype(np.int64)


def _levels(sequence: Ints) -> list[Repeat]:
    """Return the best pattern of the sequence and, if that pattern itself repeats a shorter one, the shorter too."""
    outer = find_repeat(sequence)
    if outer is None:
        return []
    inner = find_repeat(sequence, max(1, outer.period // 2)) if outer.period > 1 else None
    if inner is None or inner.removable < max(_MIN_REMOVABLE, len(sequence) // 4):
        return [outer]
    return [outer, inner]
