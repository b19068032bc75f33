"""Apply a rule on names to a column of name indices, asking once per name instead of once per event."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.columns import Ints32


def rows_named(names: list[str], column: Ints32, rule: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Return, per row of a column of indices into `names`, True if the rule holds for the row's name."""
    used = range(len(names)) if len(names) < len(column) // 16 else np.flatnonzero(np.bincount(column)).tolist()
    holds = np.zeros(len(names), np.bool_)
    for index in used:
        holds[index] = rule(names[index])
    return holds[column] if holds.any() else np.zeros(len(column), np.bool_)
