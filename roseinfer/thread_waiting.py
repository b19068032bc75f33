"""How long CPU threads wait for each other by spinning, before they sleep.

The compiled kernels and PyTorch share the threads of GNU OpenMP, which wait for each other some hundred times per step.
By default a thread spins for milliseconds. Beside other programs it then uses up a core on which the thread that it
waits for could run. A thread that sleeps at once costs time on an idle machine. GNU OpenMP reads the limit once, when
torch loads it, so the choice is by what runs at that moment.
"""

import os
import sys
import time
from pathlib import Path

SPIN_COUNT_ALONE = "30000"
"""Loops of a spinning thread, about 1 ms, on a machine where nothing else runs."""
SPIN_COUNT_SHARED = "3000"
"""About 0.1 ms: longer than most waits of a step, and short enough that the other thread soon gets its core."""
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables by which a user chooses the way of waiting."""

_LOAD = Path("/proc/loadavg")
_LOOKS, _BETWEEN_LOOKS_S = 4, 0.001


def limit_spinning() -> None:
    """Set the environment variable that GNU OpenMP reads when torch loads it, unless the user has chosen already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT_SHARED if others_run() else SPIN_COUNT_ALONE


def others_run(load: Path = _LOAD) -> bool:
    """Return whether a thread of another program runs or waits for a processor, and not only for an instant.

    True if the system does not tell. The fourth field of the file is the number of such threads, with the one that
    reads it, and of all threads.
    """
    for look in range(_LOOKS):
        try:
            running = int(load.read_text().split()[3].partition("/")[0])
        except (OSError, IndexError, ValueError):
            return True
        if running <= 1:
            return False
        if look < _LOOKS - 1:
            time.sleep(_BETWEEN_LOOKS_S)
    return True
