"""The clock that a load is sent by: wall time, or simulated time in tests."""

import time
from typing import Protocol


class Clock(Protocol):
    """The time, and how to let it pass. It must be the one that the engine stamps tokens with."""

    def now_s(self) -> float: ...

    def wait_until(self, time_s: float) -> None: ...


class WallClock:
    """`time.perf_counter`."""

    def now_s(self) -> float:
        return time.perf_counter()

    def wait_until(self, time_s: float) -> None:
        """Sleep most of the way, which may take a little longer than asked, and watch the clock for the rest."""
        if (left_s := time_s - time.perf_counter()) > 0.002:
            time.sleep(left_s - 0.001)
        while time.perf_counter() < time_s:
            pass


WALL_CLOCK = WallClock()
