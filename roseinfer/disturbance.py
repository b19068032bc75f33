"""Tell from the waits of threads whether other programs used the cores during a measurement."""

from pathlib import Path

_TASKS = Path("/proc/self/task")

WAITING_PERCENT = 5.0
"""Share of the computing threads' time in a queue for a core from which a run counts as disturbed. On an idle machine
of two cores it is below 1 %."""


def waiting_percent(threads_waiting: float | None, threads: int) -> float:
    """Return the share of the time of some threads in which they waited for a core; 0 if it is unknown."""
    return 100 * (threads_waiting or 0.0) / max(1, threads)


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
