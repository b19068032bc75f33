"""The clock that a load is sent by: wall time, or simulated time in tests."""

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time, the same as for the engine's token timestamps."""

    def now_s(self) -> float:
        """Return the current time in seconds."""
        ...

    def wait_until(self, time_s: float) -> None:
        """Return when the time is `time_s`, or at once if that is past."""
        ...


class WallClock:
    """Wall time, as `time.perf_counter` returns it."""

    def now_s(self) -> float:
        return time.perf_counter()

    def wait_until(self, time_s: float) -> None:
        """Sleep until 1 ms before the time, since a sleep may end late, then poll the clock."""
        if (left_s := time_s - time.perf_counter()) > 0.002:
            time.sleep(left_s - 0.001)
        while time.perf_counter() < time_s:
            pass


WALL_CLOCK = WallClock()
