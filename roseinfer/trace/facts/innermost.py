"""Find the innermost event of a thread at an instant, or cut a stretch of time by the innermost event."""

from typing import NamedTuple

import numpy as np

from roseinfer.trace.facts.intervals import distinct, stable_order
from roseinfer.trace.facts.nesting import Forest
from roseinfer.trace.reading.columns import Ints, Ints32


class Pieces(NamedTuple):
    """Stretches of time, cut at every change of the innermost event. Every array has one entry per piece."""

    stretch: Ints
    """Index of the stretch that the piece was cut from."""
    owner: Ints
    """Index of the innermost event during the piece, -1 for none."""
    length_ns: Ints


class OrderedPieces(NamedTuple):
    """Pieces in the order of their stretches, those of one stretch in order of time."""

    stretch: Ints
    """Index of the stretch that the piece was cut from."""
    owner: Ints
    """Index of the innermost event during the piece, -1 for none."""
    begin_ns: Ints
    length_ns: Ints


def innermost_at(forest: Forest, forest_thread: Ints32, thread: Ints32, at_ns: Ints) -> Ints:
    """Return, for each query (thread, instant), the index of the innermost open event, -1 for none.

    An event is open from its start, inclusive, to its end, exclusive. `forest_thread` is the thread of each event.
    """
    found = np.full(len(at_ns), -1, np.int64)
    for one in _threads(thread):
        low, high = np.searchsorted(forest_thread, (one, one + 1))
        here = np.flatnonzero(thread == one)
        started = np.searchsorted(forest.start_ns[low:high], at_ns[here], side="right") - 1
        found[here] = np.where(started >= 0, started + low, -1)
    return _open_at(forest, found, at_ns)


def _open_at(forest: Forest, begun: Ints, at_ns: Ints) -> Ints:
    """Return, per instant, the innermost open event; `begun` has the last event begun before, and is overwritten.

    An event that is open at an instant is the last event begun before the instant, or encloses that event.
    """
    alive = np.flatnonzero(begun >= 0)
    while len(alive):
        alive = alive[forest.end_ns[begun[alive]] <= at_ns[alive]]
        begun[alive] = forest.parent[begun[alive]]
        alive = alive[begun[alive] >= 0]
    return begun


def cut_by_innermost(forest: Forest, forest_thread: Ints32, thread: Ints32, start_ns: Ints, end_ns: Ints) -> Pieces:
    """Cut the stretches [start_ns, end_ns) of `thread` by the innermost event. The pieces of a stretch add up to it."""
    parts: list[Pieces] = []
    for one in _threads(thread):
        low, high = np.searchsorted(forest_thread, (one, one + 1))
        here = np.flatnonzero((thread == one) & (end_ns > start_ns))
        if len(here) == 0:
            continue
        if low == high:
            parts.append(Pieces(here, np.full(len(here), -1, np.int64), end_ns[here] - start_ns[here]))
            continue
        edges, owner = _changes(forest, forest_thread, one, low, high, start_ns[here].min(), end_ns[here].max())
        first = np.searchsorted(edges, start_ns[here], side="right") - 1
        count = np.searchsorted(edges, end_ns[here], side="left") - first
        stretch = np.repeat(here, count)
        segment = np.repeat(first - np.cumsum(count) + count, count) + np.arange(int(count.sum()))
        begin = np.maximum(edges[segment], start_ns[stretch])
        end = np.minimum(np.append(edges[1:], np.iinfo(np.int64).max)[segment], end_ns[stretch])
        parts.append(Pieces(stretch, owner[segment], end - begin))
    if not parts:
        none = np.zeros(0, np.int64)
        return Pieces(none, none, none)
    return Pieces(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _threads(thread: Ints32) -> list[int]:
    """Return the distinct threads of some queries, which often have one only."""
    if len(thread) == 0:
        return []
    low = int(thread.min())
    return [low] if low == int(thread.max()) else np.unique(thread).tolist()


def cut_in_order(forest: Forest, forest_thread: Ints32, thread: Ints32, start_ns: Ints, end_ns: Ints) -> OrderedPieces:
    """Cut stretches as `cut_by_innermost` does, and return the pieces by stretch and time, with their starts."""
    found = cut_by_innermost(forest, forest_thread, thread, start_ns, end_ns)
    order = stable_order(found.stretch)
    stretch, owner, length_ns = (column[order] for column in found)
    before = np.cumsum(length_ns) - length_ns
    first = np.searchsorted(stretch, np.arange(len(start_ns)))
    begin = start_ns[stretch] + before - np.append(before, 0)[first][stretch]
    return OrderedPieces(stretch, owner, begin, length_ns)


def _changes(
    forest: Forest, forest_thread: Ints32, thread: int, low: int, high: int, since_ns: int, until_ns: int
) -> tuple[Ints, Ints]:
    """Return (instants at which the innermost event of a thread may change, innermost event from each instant on).

    The first instant is at or before `since_ns`; the last is before `until_ns`. [low, high) are the thread's events.
    """
    begun, last = low + np.searchsorted(forest.start_ns[low:high], (since_ns, until_ns))
    first = np.array([since_ns], np.int64)
    around = int(innermost_at(forest, forest_thread, np.array([thread], np.int32), first)[0])
    ends: list[int] = []
    while around >= 0:
        ends.append(int(forest.end_ns[around]))
        around = int(forest.parent[around])
    edges = distinct(
        np.concatenate((first, forest.start_ns[begun:last], forest.end_ns[begun:last], np.array(ends, np.int64)))
    )
    edges = edges[edges < until_ns]
    started = begun + np.searchsorted(forest.start_ns[begun:last], edges, side="right") - 1
    return edges, _open_at(forest, np.where(started >= low, started, -1), edges)
