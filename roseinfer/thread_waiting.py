"""How long CPU threads wait for each other by spinning, before they sleep.

The compiled kernels and PyTorch share the threads of GNU OpenMP, which wait for each other some hundred times per step.
By default a thread spins for milliseconds. Beside other programs it then uses up a core on which the thread that it
waits for could run. A thread that sleeps at once costs time on an idle machine. A limited spin is longer than the waits
of a step on an idle machine, and short enough that the other thread gets its core.
"""

import os
import sys

SPIN_COUNT = "3000"
"""Loops of a spinning thread, about 0.1 ms. Measured on two cores with the demo model: `benchmarks/waiting.py`."""
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables by which a user chooses the way of waiting."""


def limit_spinning() -> None:
    """Set the environment variable that GNU OpenMP reads when torch loads it, unless the user has chosen already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in CHOICES):
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
