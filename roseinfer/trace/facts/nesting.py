"""How the events of one thread nest: who encloses whom, how long each ran by itself, who was innermost when."""

import itertools

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.columns import Ints, Small

_MAX_LEVELS = 2000
_BLOCK = 1 << 16
"""Events nested at once: bounds the memory for what is computed on the way."""


class Forest(msgspec.Struct, frozen=True, eq=False):
    """The nesting of events sorted by (thread, start, longest first)."""

    parent: Small
    """[events] the index of the enclosing event, -1 at the top."""
    depth: Small
    """[events] 0 at the top."""
    start_ns: Ints
    end_ns: Ints
    """[events] ends, cut to the parent's end where an event outlives its parent."""

    @property
    def self_ns(self) -> Ints:
        """[events] time not covered by direct children."""
        durations = self.end_ns - self.start_ns
        inner = self.parent >= 0
        covered = np.bincount(self.parent[inner], weights=durations[inner], minlength=len(durations))
        return np.asarray(durations - covered.astype(np.int64), np.int64)

    def outermost(self, group: NDArray[np.int32]) -> NDArray[np.bool_]:
        """[events] whether no enclosing event has the same group: what a recursive call adds to no total twice."""
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
        """[events] each event's value plus the values of everything inside it."""
        total = values.copy()
        for level in range(int(self.depth.max(initial=0)), 0, -1):
            at = np.flatnonzero(self.depth == level)
            np.add.at(total, self.parent[at], total[at])
        return total


def nest(start_ns: Ints, end_ns: Ints, thread: Small) -> Forest:
    """The forest of events sorted by (thread, start, longest first).

    An event belongs to the last one that began before it on its thread and has not ended. Where two overlap without
    nesting (clocks differ by some ns), the inner one is cut at the outer one's end.
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
    nothing_cut = np.array_equal(end, end_ns)  # then there is no need for a second array
    return Forest(parent=parent, depth=depth, start_ns=start_ns, end_ns=end_ns if nothing_cut else end)


def _block_end(start_ns: Ints, end_ns: Ints, low: int, stop: int, high: int) -> int | None:
    """The last place up to `stop` where nothing is open, so that nesting starts afresh; None if there is none."""
    if stop == high:
        return high
    start, end = _ticks(start_ns[low : stop + 1], end_ns[low : stop + 1])
    fresh = np.flatnonzero(start[1:] >= np.maximum.accumulate(end)[:-1])
    return low + int(fresh[-1]) + 1 if len(fresh) else None


def _nest_block(start_ns: Ints, end_ns: Ints, parent: Small, depth: Small, low: int, high: int) -> None:
    """Fills parent and depth of the events [low, high) of one thread, and cuts ends."""
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
        # What starts while nothing is open starts afresh, so only the clusters with an overlap need the slow way.
        tops = np.append(np.flatnonzero(open_before == 0), high - low)
        clusters = np.unique(np.searchsorted(tops, np.flatnonzero(broken), side="right") - 1)
        for cluster in clusters.tolist():
            nest_one_by_one(start_ns, end_ns, parent, depth, low + int(tops[cluster]), low + int(tops[cluster + 1]))


def _ticks(start_ns: Ints, end_ns: Ints) -> tuple[Ints, Ints]:
    """Half-nanoseconds, in which an event without duration lasts one: it then is inside something or is not."""
    start = start_ns * 2
    return start, np.maximum(end_ns * 2, start + 1)


def _parents(depth: Ints) -> Ints:
    """The nearest event before each that is one level up, -1 at the top; depths in order of start."""
    parent = np.full(len(depth), -1, np.int64)
    order = np.argsort(depth, kind="stable")
    edges = np.searchsorted(depth[order], np.arange(int(depth.max()) + 2))
    for level in range(1, len(edges) - 1):
        here = order[edges[level] : edges[level + 1]]
        above = order[edges[level - 1] : edges[level]]
        parent[here] = above[np.searchsorted(above, here) - 1]
    return parent


def nest_one_by_one(start_ns: Ints, end_ns: Ints, parent: Small, depth: Small, low: int, high: int) -> None:
    """What `nest` does, event by event with a stack; also for events that overlap without nesting."""
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
