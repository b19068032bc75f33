"""How many CPU cores a run could use, and how many it did use."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from roseinfer.engine.device import num_threads

_CPUS = Path("/sys/devices/system/cpu")
_STAT = Path("/proc/stat")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


class HostUse(msgspec.Struct, frozen=True, kw_only=True):
    """Cores and threads of the process during the unprofiled pass."""

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


class HostMeter:
    """CPU time and wall time of this process, from the start of a measurement to its end."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s, self._idle_s = time.perf_counter(), time.process_time(), idle_seconds()
        self._used = 0.0
        self._idle: float | None = None

    def stop(self) -> None:
        """End the measurement."""
        wall_s, cpu_s = time.perf_counter() - self._wall_s, time.process_time() - self._cpu_s
        idle_s = idle_seconds()
        if wall_s > 0:
            self._used = cpu_s / wall_s
            if idle_s is not None and self._idle_s is not None:
                self._idle = (idle_s - self._idle_s) / wall_s

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
    mine = {f"cpu{index}" for index in _processors()}
    rows = [line.split() for line in _read(stat).splitlines()]
    ticks = [int(row[4]) + int(row[5]) for row in rows if len(row) > 5 and row[0] in mine]  # idle, waiting for I/O
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None


def available_cores(cpus: Path = _CPUS, quotas: tuple[Path, ...] = _QUOTAS) -> tuple[int, int]:
    """Return (physical cores, hardware threads) that the process may use, at least 1 each.

    Without the kernel's description of the cores, each hardware thread counts as a core.
    """
    ids = _processors()
    siblings = {_read(cpus / f"cpu{index}" / "topology" / "thread_siblings_list") or str(index) for index in ids}
    limit = _quota(quotas)
    cores, logical = len(siblings), len(ids)
    if limit is not None:
        cores, logical = min(cores, limit), min(logical, limit)
    return max(1, cores), max(1, logical)


def _processors() -> list[int]:
    """Return the numbers of the processors that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _quota(files: tuple[Path, ...]) -> int | None:
    """Return the CPU limit of the container in whole cores; None without a limit."""
    for file in files:
        words = _read(file).split()
        if file.name == "cpu.cfs_quota_us":  # cgroups, version 1
            words += _read(file.with_name("cpu.cfs_period_us")).split()
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            return max(1, int(words[0]) // int(words[1]))
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
