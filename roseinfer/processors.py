"""The processors that this process may use, and how many cores they are."""

import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def usable_processors() -> list[int]:
    """Return the numbers of the processors that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def available_cores(cpus: Path = _CPUS, quotas: tuple[Path, ...] = _QUOTAS) -> tuple[int, int]:
    """Return (physical cores, hardware threads) that the process may use, at least 1 each.

    Without the kernel's description of the cores, each hardware thread counts as a core.
    """
    ids = usable_processors()
    siblings = {_read(cpus / f"cpu{index}" / "topology" / "thread_siblings_list") or str(index) for index in ids}
    limit = _quota(quotas)
    cores, logical = len(siblings), len(ids)
    if limit is not None:
        cores, logical = min(cores, limit), min(logical, limit)
    return max(1, cores), max(1, logical)


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
