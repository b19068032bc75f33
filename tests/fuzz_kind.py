"""One kind of input that `tests/fuzz_inputs.py` damages."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = Any
"""Result of an input, compared with the result of the whole input."""

ODD: list[Any] = [
    [], {}, [[]], "x", "", -1, 10**12, 10**400, 1e308, float("nan"), float("inf"), "9" * 5000, [1] * 1000, {"a": {}},
]  # fmt: skip
"""Values of wrong types and sizes. None and small numbers are left out, since they may be valid."""


@dataclass
class Kind:
    """One kind of input: how to make a damaged one, and how to run it."""

    name: str
    damage: Callable[[random.Random], bytes]
    run: Callable[[bytes], Result]
    is_same: Callable[[Result], bool]
    """True if the result is that of the whole input, or as good."""


def run_file(path: Path, run: Callable[[Path], Result]) -> Callable[[bytes], Result]:
    def written(data: bytes) -> Result:
        path.write_bytes(data)
        return run(path)

    return written
