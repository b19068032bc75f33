"""Work of a CPU that is the device: operators and collectives, as disjoint intervals per file."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.facts.data_loading import LoadingTable, loading_times
from roseinfer.trace.facts.intervals import union, without
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints


class CpuWork(msgspec.Struct, frozen=True, eq=False):
    """Starts and ends of the time in which some thread of a file worked, sorted and disjoint."""

    compute: tuple[Ints, Ints]
    """Time in which a thread was in an operator that is no collective."""
    busy: tuple[Ints, Ints]
    """Time in which a thread was in an operator or in a collective."""


def cpu_work(facts: Facts, file: int, loading: LoadingTable) -> CpuWork:
    """Return the work of the threads of one file.

    Operators inside a collective or inside data loading, on the same thread, are no compute.
    """
    threads = [index for index, one in enumerate(facts.trace.thread_files) if one == file]
    compute: list[tuple[Ints, Ints]] = []
    talk: list[tuple[Ints, Ints]] = []
    for thread in threads:
        operators = _top_operators(facts, thread)
        collectives = collectives_of(facts, thread)
        other = _union(collectives, loading_times(facts, loading, thread))
        compute.append(without(*operators, *other))
        talk.append(collectives)
    return CpuWork(compute=_union(*compute), busy=_union(*compute, *talk))


def collectives_of(facts: Facts, thread: int) -> tuple[Ints, Ints]:
    """Return the disjoint intervals in which a thread was inside a collective, an operator or a span."""
    trace, spans = facts.trace, facts.spans
    found: list[tuple[Ints, Ints]] = []
    low, high = np.searchsorted(trace.ops.thread, (thread, thread + 1))
    at = low + np.flatnonzero(np.isin(trace.ops.name[low:high], _named(trace.names, trace.ops.name[low:high])))
    found.append((facts.ops.start_ns[at], facts.ops.end_ns[at]))
    groups = [index for index, name in enumerate(spans.groups) if is_collective(name)]
    low, high = np.searchsorted(spans.thread, (thread, thread + 1))
    at = low + np.flatnonzero(np.isin(spans.group[low:high], groups))
    found.append((spans.start_ns[at], spans.end_ns[at]))
    return _union(*found)


def _top_operators(facts: Facts, thread: int) -> tuple[Ints, Ints]:
    low, high = np.searchsorted(facts.trace.ops.thread, (thread, thread + 1))
    at = low + np.flatnonzero(facts.ops.depth[low:high] == 0)
    return union(facts.ops.start_ns[at], facts.ops.end_ns[at])


def _named(names: list[str], used: NDArray[np.int32]) -> list[int]:
    return [index for index in np.unique(used).tolist() if is_collective(names[index])]


def _union(*parts: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Return the union of sets of intervals."""
    start = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
    end = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
    order = np.argsort(start, kind="stable")
    return union(start[order], end[order])
