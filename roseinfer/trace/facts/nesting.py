"""Find how the events of each thread nest: the parent, the depth and the self time of each event."""

import itertools

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.columns import Ints, Ints32

_MAX_LEVELS = 2000
"""Depth from which events are nested one by one, since `_parents` makes one pass per level."""
_BLOCK = 1 << 16
"""Events nested at once; bounds the memory for intermediate arrays."""


class Forest(msgspec.Struct, frozen=True, eq=False):
    """The nesting of events that are sorted by (thread, start, longest first)."""

    parent: Ints32
    """Per event: index of the enclosing event, -1 for top-level events."""
    depth: Ints32
    """Per event: number of enclosing events."""
    start_ns: Ints
    end_ns: Ints
    """Per event: end time in ns, but no later than its parent's end."""

    @property
    def self_ns(self) -> Ints:
        """Per event: duration in ns without the events inside it."""
        durations = self.end_ns - self.start_ns
        inner = self.parent >= 0
        covered = np.bincount(self.parent[inner], weights=durations[inner], minlength=len(durations))
        return np.asarray(durations - covered.astype(np.int64), np.int64)

    def outermost(self, group: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return, per event, True if no enclosing event has the same group: a total counts recursive calls once."""
        nested = np.zeros(len(group), np.bool_)
        ancestor = self.parent.copy()
        alive = np.flatnonzero(ancestor >= 0)
        while len(alive):
            above = ancestor[alive]
            nested[alive] |= group[alive] == group[above]
            ancestor[alive] = self.parent[above]
            alive = alive[(ancestor[alive] >= 0) & ~nested[alive]]
        return ~nested

    def add_to_ancestors(self, values: Ints) -> Ints:
        """Return, per event, the sum of its value and the values of all events inside it."""
        total = values.copy()
        for level in range(int(self.depth.max(initial=0)), 0, -1):
            at = np.flatnonzero(self.depth == level)
            np.add.at(total, self.parent[at], total[at])
        return total


def nest(start_ns: Ints, end_ns: Ints, thread: Ints32) -> Forest:
    """Nest events that are sorted by (thread, start, longest first).

    The parent of an event is the last event on its thread that began before it and has not ended. If two events
    overlap without nesting (clocks differ by a few ns), the later one is cut at the end of the earlier one.
    """
    parent = np.full(len(start_ns), -1, np.int32)
    depth = np.zeros(len(start_ns), np.int32)
    end = end_ns.copy()
    edges = np.flatnonzero(np.diff(thread)) + 1
    for low, high in itertools.pairwise([0, *edges.tolist(), len(start_ns)]):
        size = _BLOCK
        while low < high:
            stop = _block_end(start_ns, end, low, min(low + size, high), high)
            if stop is None:
                size *= 2
                continue
            _nest_block(start_ns, end, parent, depth, low, stop)
            low, size = stop, _BLOCK
    nothing_cut = np.array_equal(end, end_ns)  # then the copy is dropped, to save memory
    return Forest(parent=parent, depth=depth, start_ns=start_ns, end_ns=end_ns if nothing_cut else end)


def _block_end(start_ns: Ints, end_ns: Ints, low: int, stop: int, high: int) -> int | None:
    """Return the last index up to `stop` before which every event has ended, or None.

    From this index on, nesting does not depend on earlier events.
    """
    if stop == high:
        return high
    start, end = _ticks(start_ns[low : stop + 1], end_ns[low : stop + 1])
    fresh = np.flatnonzero(start[1:] >= np.maximum.accumulate(end)[:-1])
    return low + int(fresh[-1]) + 1 if len(fresh) else None


def _nest_block(start_ns: Ints, end_ns: Ints, parent: Ints32, depth: Ints32, low: int, high: int) -> None:
    """Fill in parent and depth of the events [low, high) of one thread, and cut ends in place."""
    start, end = _ticks(start_ns[low:high], end_ns[low:high])
    open_before = np.arange(high - low) - np.searchsorted(np.sort(end), start, side="right")
    if int(open_before.max()) >= _MAX_LEVELS:
        nest_one_by_one(start_ns, end_ns, parent, depth, low, high)
        return
    above = _parents(open_before)
    inner = above >= 0
    broken = np.zeros(high - low, np.bool_)
    broken[inner] = end[inner] > end[above[inner]]
    depth[low:high] = open_before
    parent[low:high] = np.where(inner, above + low, -1)
    if broken.any():
        # A top-level event depends on no earlier one, so only the top-level events with an overlap need the slow way.
        tops = np.append(np.flatnonzero(open_before == 0), high - low)
        clusters = np.unique(np.searchsorted(tops, np.flatnonzero(broken), side="right") - 1)
        for cluster in clusters.tolist():
            nest_one_by_one(start_ns, end_ns, parent, depth, low + int(tops[cluster]), low + int(tops[cluster + 1]))


def _ticks(start_ns: Ints, end_ns: Ints) -> tuple[Ints, Ints]:
    """Return times in half-nanoseconds, with empty events one unit long, so that an empty event can have a parent."""
    start = start_ns * 2
    return start, np.maximum(end_ns * 2, start + 1)


def _parents(depth: Ints) -> Ints:
    """Return the nearest earlier event that is one level up, -1 at the top, for events in order of start."""
    parent = np.full(len(depth), -1, np.int64)
    order = np.argsort(depth.astype(np.int16), kind="stable")  # NumPy sorts 16 bits by radix, in linear time
    edges = np.append(0, np.cumsum(np.bincount(depth)))
    for level in range(1, len(edges) - 1):
        here = order[edges[level] : edges[level + 1]]
        above = order[edges[level - 1] : edges[level]]
        parent[here] = above[np.searchsorted(above, here) - 1]
    return parent


def nest_one_by_one(start_ns: Ints, end_ns: Ints, parent: Ints32, depth: Ints32, low: int, high: int) -> None:
    """Nest the events [low, high) one by one with a stack: slower than `nest`, but right for overlapping events."""
    starts, ends = (ticks.tolist() for ticks in _ticks(start_ns[low:high], end_ns[low:high]))
    stack: list[int] = []
    for index, start in enumerate(starts):
        while stack and ends[stack[-1]] <= start:
            stack.pop()
        parent[low + index] = low + stack[-1] if stack else -1
        depth[low + index] = len(stack)
        if stack and ends[index] > ends[stack[-1]]:
            ends[index] = ends[stack[-1]]
            end_ns[low + index] = end_ns[low + stack[-1]]
        stack.append(index)
