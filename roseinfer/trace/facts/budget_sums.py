"""Add up the parts of the budget over every step and recording, per device, in whole nanoseconds."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.budget_parts import PARTS
from roseinfer.trace.facts.intervals import covered_before, distinct
from roseinfer.trace.reading.columns import Ints


class BudgetTable(msgspec.Struct, frozen=True, eq=False):
    """Parts of the wall time of one device."""

    recording: Ints
    """Nanoseconds of each part over the whole recording, `[parts]`."""
    steps: Ints
    """Index of each step of the device's recording."""
    of_step: Ints
    """Nanoseconds of each part of each of these steps, `[steps, parts]`."""


class BudgetSums:
    """Sums of one device, by part, between the instants at which a step or the recording begins or ends."""

    def __init__(self, start_ns: int, end_ns: int, steps: Ints, step_start_ns: Ints, step_end_ns: Ints) -> None:
        self._window = np.array([start_ns, end_ns])
        self._steps, self._step_start, self._step_end = steps, step_start_ns, step_end_ns
        self._edges = distinct(np.concatenate((self._window, step_start_ns, step_end_ns)))
        self._sums = np.zeros((max(len(self._edges) - 1, 0), len(PARTS)), np.int64)

    def add_busy(self, part: int, start_ns: Ints, end_ns: Ints, but_start_ns: Ints, but_end_ns: Ints) -> None:
        """Add the time that the first intervals cover and the others do not; the first must include the others.

        Both are sorted and disjoint.
        """
        covered = covered_before(start_ns, end_ns, self._edges) - covered_before(but_start_ns, but_end_ns, self._edges)
        self._sums[:, part] += np.diff(covered)

    def add_pieces(self, part: NDArray[np.int8], begin_ns: Ints, length_ns: Ints) -> None:
        """Add disjoint pieces of time, in any order, each with its part."""
        size, edges = len(self._sums), self._edges
        if size == 0 or len(part) == 0:
            return
        end_ns = begin_ns + length_ns
        first = np.searchsorted(edges, begin_ns, side="right") - 1
        last = np.searchsorted(edges, end_ns, side="left") - 1
        whole = (first == last) & (first >= 0) & (first < size)
        self._add(first[whole], part[whole], length_ns[whole])
        cut = np.flatnonzero(first < last)
        count = last[cut] - first[cut] + 1
        piece = np.repeat(cut, count)
        segment = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count) + first[piece]
        inside = (segment >= 0) & (segment < size)
        piece, segment = piece[inside], segment[inside]
        begin = np.maximum(begin_ns[piece], edges[segment])
        self._add(segment, part[piece], np.minimum(end_ns[piece], edges[segment + 1]) - begin)

    def table(self) -> BudgetTable:
        """Return the sums of the recording and of each step."""
        before = np.concatenate((np.zeros((1, len(PARTS)), np.int64), np.cumsum(self._sums, axis=0)))
        low, high = np.searchsorted(self._edges, self._window)
        first, last = np.searchsorted(self._edges, self._step_start), np.searchsorted(self._edges, self._step_end)
        return BudgetTable(
            recording=before[high] - before[low], steps=self._steps, of_step=before[last] - before[first]
        )

    def _add(self, segment: Ints, part: NDArray[np.int8], length_ns: Ints) -> None:
        size = self._sums.size
        found = np.bincount(segment * len(PARTS) + part, weights=length_ns, minlength=size)
        self._sums += found.astype(np.int64).reshape(self._sums.shape)
