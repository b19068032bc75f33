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

SPIN_COUNT_SHARED = "500"
"""Loops of a spinning thread beside another program, about 0.02 ms, after which the other thread soon gets its core."""
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables by which a user chooses the way of waiting."""

_LOAD = Path("/proc/loadavg")
_LOOKS, _BETWEEN_LOOKS_S = 4, 0.001


def limit_spinning() -> None:
    """Limit the spinning beside another program, unless the user has chosen already or torch is loaded.

    Where nothing else runs, GNU OpenMP's own limit stays: any shorter one was slower.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES) and others_run():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT_SHARED


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
