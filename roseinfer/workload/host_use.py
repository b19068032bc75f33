"""How many CPU cores a run could use, how many it did use, and whether other programs disturbed it."""

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from roseinfer.disturbance import WAITING_PERCENT, queued_seconds, waiting_percent
from roseinfer.engine.device import num_threads
from roseinfer.processors import available_cores, usable_processors

_STAT = Path("/proc/stat")


_STOLEN_PERCENT = 2.0
"""Share of the time that the host of a virtual machine takes away from which a run counts as disturbed."""


class HostUse(msgspec.Struct, frozen=True, kw_only=True):
    """Cores and threads of the process during a measurement, such as the unprofiled pass."""

    threads: int
    """Threads that torch computes with."""
    cores: int
    """Physical cores that the process may run on, within the limit of its container."""
    logical_cores: int
    """Hardware threads of these cores."""
    cores_used: float
    """CPU time of the process divided by wall time, over the pass."""
    cores_idle: float | None
    """Mean number of these cores that no program used during the pass; None if the system does not tell."""
    threads_waiting: float | None = None
    """Mean number of threads of this process that could run and had to wait for a core; None if unknown."""
    involuntary_switches: int | None = None
    """Times that the system took a core from a thread of this process; None if unknown."""
    stolen_percent: float | None = None
    """Share of the cores' time that the host of a virtual machine gave to others; None if unknown."""

    @property
    def disturbance(self) -> str | None:
        """Evidence that the machine was not this run's alone, as text; None without any."""
        waiting = waiting_percent(self.threads_waiting, self.threads, self.cores)
        stolen_percent = self.stolen_percent or 0.0
        parts = []
        if waiting >= WAITING_PERCENT:
            switches = "" if self.involuntary_switches is None else f" ({self.involuntary_switches} times)"
            parts.append(f"its threads waited for a core for {waiting:.0f} % of the time{switches}")
        if stolen_percent >= _STOLEN_PERCENT:
            parts.append(f"the host took {stolen_percent:.0f} % of the time of its cores")
        return " and ".join(parts) or None


class HostMeter:
    """CPU time and wall time of this process, from the start of a measurement to its end."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s, self._idle_s = time.perf_counter(), time.process_time(), idle_seconds()
        self._queued_s, self._switches, self._stolen_s = queued_seconds(), _switches(), stolen_seconds()
        self._used = 0.0
        self._idle: float | None = None
        self._waiting: float | None = None
        self._stolen: float | None = None

    def stop(self) -> None:
        """End the measurement."""
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        idle_s = idle_seconds()
        if wall_s > 0:
            self._used = cpu_s / wall_s
            if idle_s is not None and self._idle_s is not None:
                self._idle = (idle_s - self._idle_s) / wall_s
            queued_s, stolen_s = queued_seconds(), stolen_seconds()
            if queued_s is not None and self._queued_s is not None:
                self._waiting = max(0.0, queued_s - self._queued_s) / wall_s
            if stolen_s is not None and self._stolen_s is not None:
                self._stolen = (stolen_s - self._stolen_s) / wall_s
        self._switches = _switches() - self._switches

    def use(self) -> HostUse:
        """Return the cores used between the start and `stop`."""
        cores, logical = available_cores()
        idle = None if self._idle is None else round(min(self._idle, max(0.0, cores - self._used)), 2)
        return HostUse(
            threads=num_threads(),
            cores=cores,
            logical_cores=logical,
            cores_used=round(self._used, 2),
            cores_idle=idle,
            threads_waiting=None if self._waiting is None else round(self._waiting, 3),
            involuntary_switches=self._switches,
            stolen_percent=None if self._stolen is None else round(100 * self._stolen / logical, 1),
        )


@contextmanager
def measured_host() -> Iterator[HostMeter]:
    """Measure the cores that the process uses inside the context."""
    meter = HostMeter()
    try:
        yield meter
    finally:
        meter.stop()


def idle_seconds(stat: Path = _STAT) -> float | None:
    """Return the idle time since boot of the processors that this process may use; None if the system does not tell."""
    return _seconds(stat, (4, 5))  # idle, waiting for I/O


def stolen_seconds(stat: Path = _STAT) -> float | None:
    """Return the time since boot that the host of a virtual machine took from this process's processors, or None."""
    return _seconds(stat, (8,))


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _seconds(stat: Path, columns: tuple[int, ...]) -> float | None:
    """Return the sum of some columns of /proc/stat over this process's processors."""
    mine = {f"cpu{index}" for index in usable_processors()}
    try:
        rows = [line.split() for line in stat.read_text().splitlines()]
    except OSError:
        return None
    ticks = [sum(int(row[at]) for at in columns) for row in rows if len(row) > max(columns) and row[0] in mine]
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None
