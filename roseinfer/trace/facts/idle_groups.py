"""Add up pieces of idle time that have the same key, batch after batch."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.intervals import stable_order
from roseinfer.trace.reading.columns import Ints


class GroupSum(msgspec.Struct):
    """Idle time, number of stretches and longest piece of one group, so far."""

    total_ns: int = 0
    stretches: int = 0
    short_ns: int = 0
    """The part of `total_ns` in short stretches."""
    longest_ns: int = 0
    longest_at_ns: int = 0
    longest_before: int = -1
    """Index of the GPU event that ended the stretch with the longest time, -1 at the end of a recording."""

    def add(self, other: "GroupSum") -> None:
        """Add the same group of another rank."""
        self.total_ns += other.total_ns
        self.stretches += other.stretches
        self.short_ns += other.short_ns
        if other.longest_ns > self.longest_ns:
            self.longest_ns, self.longest_at_ns = other.longest_ns, other.longest_at_ns
            self.longest_before = other.longest_before


class GroupTotals(msgspec.Struct, frozen=True, eq=False):
    """Totals of the groups of one batch of pieces. Every array has one entry per group."""

    some: Ints
    """Index of a piece of the group."""
    total_ns: Ints
    stretches: Ints
    short_ns: Ints
    longest_ns: Ints
    longest: Ints
    """Index of the first piece of the longest time; of several times, the last one."""

    def add_to(self, found: GroupSum, group: int, begin_ns: Ints, event: Ints) -> None:
        """Add one group of the batch; the arrays have one entry per piece, `event` the GPU event after the piece."""
        found.total_ns += int(self.total_ns[group])
        found.stretches += int(self.stretches[group])
        found.short_ns += int(self.short_ns[group])
        if self.longest_ns[group] > found.longest_ns:
            longest = int(self.longest[group])
            found.longest_ns = int(self.longest_ns[group])
            found.longest_at_ns = int(begin_ns[longest])
            found.longest_before = int(event[longest])


def group_totals(key: Ints, stretch: Ints, length_ns: Ints, short: NDArray[np.bool_], *, join: bool) -> GroupTotals:
    """Return the totals of pieces with the same key. `key` must not be empty, nor below 0; `stretch` must be sorted.

    `short` is true for pieces of short stretches. The longest time is that of a piece or, with `join`, of all pieces of
    the group in one stretch.
    """
    order = stable_order(key)
    key, stretch, length_ns, short = key[order], stretch[order], length_ns[order], short[order]
    fresh = np.ones(len(key), np.bool_)
    fresh[1:] = key[1:] != key[:-1]
    first = np.flatnonzero(fresh)
    other_stretch = fresh.copy()
    other_stretch[1:] |= stretch[1:] != stretch[:-1]
    part = np.flatnonzero(other_stretch) if join else np.arange(len(key))
    part_ns = np.add.reduceat(length_ns, part) if join else length_ns
    longest_ns = np.maximum.reduceat(part_ns, np.searchsorted(part, first))
    group = (np.cumsum(fresh) - 1)[part]
    at = np.flatnonzero(part_ns == longest_ns[group])
    last = np.append(np.flatnonzero(np.diff(group[at])), len(at) - 1)
    return GroupTotals(
        some=order[first],
        total_ns=np.add.reduceat(length_ns, first),
        stretches=np.add.reduceat(other_stretch.astype(np.int64), first),
        short_ns=np.add.reduceat(length_ns * short, first),
        longest_ns=longest_ns,
        longest=order[part[at[last]]],
    )
