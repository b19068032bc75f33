"""Tell from the waits of threads whether other programs used the cores during a measurement."""

from pathlib import Path

_TASKS = Path("/proc/self/task")

WAITING_PERCENT = 5.0
"""Share of the computing threads' time in a queue for a core from which a run counts as disturbed. On an idle machine
of two cores it is below 1 %."""


def waiting_percent(threads_waiting: float | None, threads: int, cores: int) -> float:
    """Return the share of the time of some threads in which they waited for one of the cores; 0 if it is unknown.

    `threads_waiting` is the mean number of threads that waited. Of more threads than cores, only as many count.
    """
    return min(100 * (threads_waiting or 0.0) / max(1, min(threads, cores)), 100.0)


def queued_seconds(tasks: Path = _TASKS) -> float | None:
    """Return the time that the threads of this process have waited for a core, summed; None if unknown."""
    waits = []
    try:
        for task in tasks.iterdir():
            try:
                waits.append(int((task / "schedstat").read_text().split()[1]))
            except (OSError, IndexError):  # the thread has ended, or the system does not count
                continue
    except OSError:
        return None
    return sum(waits) / 1e9 if waits else None
