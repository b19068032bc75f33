"""Let CPU threads spin while the machine is theirs, and sleep soon while other programs want its cores.

The compiled kernels and PyTorch share the threads of GNU OpenMP, which wait for each other some hundred times per step.
A waiting thread spins, for milliseconds by default. That is fastest on an idle machine. Beside other programs, the
spinning thread uses up a core on which the thread that it waits for could run. GNU OpenMP reads the limit of spinning
once, when it is loaded, but it also has a much lower one, for processes with more OpenMP threads than processors
(`gomp_throttled_spin_count_var`). `SpinControl` measures whether the threads of this process wait for cores. While they
do, it keeps so many idle threads that the lower limit applies.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Protocol

from roseinfer.disturbance import WAITING_PERCENT, queued_seconds

CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables by which a user chooses the way of waiting. It is left alone then."""

_CHECK_S = 0.5
"""Seconds between two measurements, which take about 10 us per thread."""
_CALM_PERCENT = 1.0
"""Share of waiting, in percent of the time in which threads could run, below which nobody else wants the cores."""
_CALM_CHECKS = 4
"""Calm measurements in a row after which threads spin again."""
_LEAST_USE = 0.1
"""Seconds of computing or waiting per second below which a measurement says nothing."""


class Closable(Protocol):
    """Something that can be ended."""

    def close(self) -> None:
        """End it."""
        ...


class IdleThreads:
    """Threads of GNU OpenMP that sleep until they are closed."""

    def __init__(self, library: str, count: int) -> None:
        """`library` is the path of libgomp as this process has loaded it."""
        self._end = threading.Event()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(library, count, started), daemon=True)
        self._thread.start()
        started.wait()

    def _run(self, library: str, count: int, started: threading.Event) -> None:
        # Each thread that opens a parallel region has OpenMP threads of its own, which live as long as it does.
        try:
            nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # free(NULL) does nothing
            parallel = ctypes.CDLL(library).GOMP_parallel
            parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            parallel.restype = None
            parallel(nothing, None, count, 0)
        finally:
            started.set()
        self._end.wait()

    def close(self) -> None:
        """End the threads."""
        self._end.set()
        self._thread.join()


class SpinControl:
    """Measures from time to time whether other programs want the cores, and chooses how long threads spin."""

    def __init__(
        self,
        stop_spinning: Callable[[], Closable],
        *,
        queued_s: Callable[[], float | None] = queued_seconds,
        used_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stop_spinning` makes threads sleep soon until its result is closed.

        `queued_s` and `used_s` return the seconds in which this process's threads have waited for a core, and computed.
        """
        self._stop_spinning = stop_spinning
        self._queued, self._used, self._clock = queued_s, used_s, clock
        self._lock = threading.Lock()
        self._stopped: Closable | None = None
        self._num_calm = 0
        self._last: tuple[float, float, float] | None = None  # clock, queued, used

    @property
    def spins(self) -> bool:
        """True while threads spin as long as GNU OpenMP lets them."""
        return self._stopped is None

    def step(self) -> None:
        """Measure, if it is time to, and choose. Call this before each step, from any thread."""
        if self._lock.acquire(blocking=False):
            try:
                self._measure()
            finally:
                self._lock.release()

    def _measure(self) -> None:
        now = self._clock()
        if self._last is not None and now - self._last[0] < _CHECK_S:
            return
        queued, before = self._queued(), self._last
        if queued is None:
            return
        self._last = now, queued, self._used()
        if before is None:
            return
        waited, used = max(0.0, queued - before[1]), self._last[2] - before[2]
        if waited + used >= _LEAST_USE * (now - before[0]):
            self._choose(100 * waited / (waited + used))

    def _choose(self, waiting_percent: float) -> None:
        self._num_calm = self._num_calm + 1 if waiting_percent < _CALM_PERCENT else 0
        if self._stopped is None and waiting_percent >= WAITING_PERCENT:
            self._stopped = self._stop_spinning()
        elif self._stopped is not None and self._num_calm >= _CALM_CHECKS:
            self._stopped.close()
            self._stopped = None


@cache
def spin_control() -> SpinControl | None:
    """Return the control of this process's threads; None if the user has chosen, or GNU OpenMP is not loaded.

    There is one per process, because a process has one OpenMP.
    """
    library = _loaded_libgomp()
    wanted = os.environ.get("ROSEINFER_WAITING") == "adaptive"  # off by default: a process crashed while it was on
    if library is None or not wanted or any(name in os.environ for name in CHOICES):
        return None
    return SpinControl(lambda: IdleThreads(library, _crowd()))


def _crowd() -> int:
    """Return so many threads that, with those that compute, there are more than processors."""
    import torch

    processors = len(os.sched_getaffinity(0))
    return max(2, processors - torch.get_num_threads() + 2)


def _loaded_libgomp() -> str | None:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(maxsplit=5)[5] for line in lines if "libgomp" in line), None)
