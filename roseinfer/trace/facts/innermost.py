"""Find the innermost event of a thread at an instant, or cut stretches of time by the innermost event."""

from typing import NamedTuple

import numpy as np

from roseinfer.trace.facts.intervals import stable_order
from roseinfer.trace.facts.nesting import Forest
from roseinfer.trace.reading.columns import Ints, Ints32


class OrderedPieces(NamedTuple):
    """Stretches of time, cut at every change of the innermost event: pieces in order of stretch, then of time.

    Every array has one entry per piece. The pieces of a stretch add up to the stretch.
    """

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


def cut_in_order(forest: Forest, forest_thread: Ints32, thread: Ints32, start_ns: Ints, end_ns: Ints) -> OrderedPieces:
    """Cut the stretches [start_ns, end_ns) of `thread` by the innermost event."""
    parts: list[OrderedPieces] = []
    for one in _threads(thread):
        here = np.flatnonzero((thread == one) & (end_ns > start_ns))
        if len(here):
            parts.append(_cut_thread(forest, forest_thread, one, here, start_ns[here], end_ns[here]))
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.zeros(0, np.int64)
        return OrderedPieces(none, none, none, none)
    found = OrderedPieces(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    order = stable_order(found.stretch)
    return OrderedPieces(*(column[order] for column in found))


def _cut_thread(
    forest: Forest, forest_thread: Ints32, thread: int, stretch: Ints, start_ns: Ints, end_ns: Ints
) -> OrderedPieces:
    """Cut stretches of one thread, none of them empty; `stretch` has the number of each."""
    low, high = np.searchsorted(forest_thread, (thread, thread + 1))
    if low == high:
        return OrderedPieces(stretch, np.full(len(stretch), -1, np.int64), start_ns, end_ns - start_ns)
    edges, owner = _changes(forest, forest_thread, thread, low, high, start_ns.min(), end_ns.max())
    first = np.searchsorted(edges, start_ns, side="right") - 1
    count = np.searchsorted(edges, end_ns, side="left") - first
    after = np.cumsum(count)
    segment = np.repeat(first - after + count, count)
    segment += np.arange(len(segment))
    # Only the first piece of a stretch begins between two edges, and only the last one ends there.
    begin, end = edges[segment], edges[np.minimum(segment + 1, len(edges) - 1)]
    begin[after - count] = start_ns
    end[after - 1] = end_ns
    return OrderedPieces(np.repeat(stretch, count), owner[segment], begin, end - begin)


def _threads(thread: Ints32) -> list[int]:
    """Return the distinct threads of some queries, which often have one only."""
    if len(thread) == 0:
        return []
    low = int(thread.min())
    return [low] if low == int(thread.max()) else np.unique(thread).tolist()


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
    others = np.concatenate((first, forest.end_ns[begun:last], np.array(ends, np.int64)))
    # The lowest bit marks starts, so that adding it up counts the events begun: faster than searching for each instant.
    marked = np.sort(np.concatenate((2 * forest.start_ns[begun:last] + 1, 2 * others)))
    marked = marked[: np.searchsorted(marked, 2 * until_ns)]
    at = np.append(np.flatnonzero(marked[1:] >> 1 != marked[:-1] >> 1), len(marked) - 1)
    edges, started = marked[at] >> 1, begun + np.cumsum(marked & 1)[at] - 1
    return edges, _open_at(forest, np.where(started >= low, started, -1), edges)
