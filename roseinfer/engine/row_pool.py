"""Allocation of the runner's row numbers, shared by all schedulers of one engine."""

from heapq import heappop, heappush


class RowPool:
    """Allocates row numbers, the smallest free number first, so that ranks with equal histories agree."""

    def __init__(self) -> None:
        self._free: list[int] = []  # a heap
        self._num_rows = 0

    def allocate(self) -> int:
        """Return a free row number; a new one if all are in use."""
        if self._free:
            return heappop(self._free)
        self._num_rows += 1
        return self._num_rows - 1

    def free(self, row: int) -> None:
        """Make a row number available again."""
        heappush(self._free, row)
