"""Find the code that a graph replay runs again: a region of the program that launched the same kernels one by one.

A region is a run of consecutive launches of one thread, in the same trace or in a capture trace, whose GPU events have
the same names in the same order as those of a replay. An event of the replay then belongs to the operator that launched
its counterpart. Traces need no manifest for that, but one eager run of the captured code, such as its warm-up.
"""

from typing import NamedTuple

import numpy as np

from roseinfer.trace.facts.operator_work import operator_of_events
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints

_MIN_EVENTS = 2
"""Events of a replay from which a region can be told from a coincidence."""


class CapturedRegion(NamedTuple):
    """Events of graph replays and their counterparts in one trace. The arrays have one entry per matched event."""

    event: Ints
    """Index of the event in the GPU table."""
    operator: Ints
    """Index of the operator in the table of operators of the trace that holds the region."""
    facts: Facts
    """Facts of the trace that holds the region."""


class ReplayMatches(NamedTuple):
    """Regions that replays were matched with, and the number of replays without one."""

    facts: Facts
    """Facts of the trace with the replays."""
    regions: list[CapturedRegion]
    replays: int
    unmatched: int


def match_replays(facts: Facts, capture: Facts | None = None) -> ReplayMatches:
    """Match the graph replays of a trace with regions of the same trace, and those left with regions of `capture`."""
    replays = _replays(facts)
    total = len(replays)
    regions: list[CapturedRegion] = []
    numbers = {name: index for index, name in enumerate(facts.trace.names)}
    for source in (facts, capture) if capture is not None else (facts,):
        if not replays:
            break
        matched, replays = _matched(facts, replays, source, numbers)
        if matched is not None:
            regions.append(matched)
    return ReplayMatches(facts, regions, total, len(replays))


def _replays(facts: Facts) -> list[Ints]:
    """Return the GPU events of each replay in order of time."""
    attribution, gpu = facts.attribution, facts.trace.gpu
    at = np.flatnonzero((attribution.by_graph | attribution.replayed) & attribution.linked)
    at = at[np.lexsort((gpu.start_ns[at], attribution.launch[at]))]
    edges = np.flatnonzero(np.diff(attribution.launch[at])) + 1
    return [part for part in np.split(at, edges) if len(part) >= _MIN_EVENTS] if len(at) else []


def _matched(
    facts: Facts, replays: list[Ints], source: Facts, numbers: dict[str, int]
) -> tuple[CapturedRegion | None, list[Ints]]:
    """Return (counterparts of the replays with a region in `source`, replays without one)."""
    operator = operator_of_events(source)
    sequences = _sequences(source, operator, numbers)
    found: dict[bytes, Ints | None] = {}
    events: list[Ints] = []
    counterparts: list[Ints] = []
    left: list[Ints] = []
    for replay in replays:
        names = facts.trace.gpu.name[replay].astype(np.int64)
        key = names.tobytes()
        if key not in found:
            found[key] = _region(sequences, names)
        region = found[key]
        if region is None:
            left.append(replay)
        else:
            events.append(replay)
            counterparts.append(region)
    if not events:
        return None, left
    return CapturedRegion(np.concatenate(events), operator[np.concatenate(counterparts)], source), left


def _sequences(source: Facts, operator: Ints, numbers: dict[str, int]) -> list[tuple[Ints, Ints]]:
    """Return, per launching thread, (events in the order of their launches, their names as numbers)."""
    trace, attribution = source.trace, source.attribution
    renamed = np.array([numbers.get(name, -1 - index) for index, name in enumerate(trace.names)], np.int64)
    at = np.flatnonzero((operator >= 0) & ~attribution.by_graph & ~attribution.replayed)
    at = at[np.argsort(attribution.launch_start_ns[at], kind="stable")]
    thread = attribution.thread[at]
    parts = (at[thread == one] for one in np.unique(thread).tolist())
    return [(part, renamed[trace.gpu.name[part]]) for part in parts]


def _region(sequences: list[tuple[Ints, Ints]], names: Ints) -> Ints | None:
    """Return the events of the last region with these names, None without one."""
    for events, sequence in sequences:
        starts = np.flatnonzero(sequence[: len(sequence) - len(names) + 1] == names[0]) if len(sequence) else events
        for start in starts[::-1].tolist():
            if np.array_equal(sequence[start : start + len(names)], names):
                return events[start : start + len(names)]
    return None
