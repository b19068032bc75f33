"""Messages between the process that tries advice and the processes that run engines: one JSON line each.

A worker reads a `TrialTask` and answers `Built`. To each line `WARM_UP` it answers `Warm`, to each line `SAMPLE` a
`Sample`. `Failed` in place of an answer is its last.
"""

import msgspec

from roseinfer.config import RunConfig

WARM_UP = b"warm up\n"
SAMPLE = b"sample\n"

ELSEWHERE = ""
"""Name of the time of a pass outside its steps, among its phases."""


class TrialTask(msgspec.Struct, frozen=True):
    """An engine to build, and its workload."""

    config: RunConfig
    device: str
    """Name of the device that the engine must run on, as manifests have it."""
    kv_share: float
    """KV cache on a GPU, as a share of its memory: several engines are on it at once."""
    min_sample_s: float
    """Shortest time of a sample, in s: shorter passes are repeated."""


class Built(msgspec.Struct, frozen=True, tag=True):
    """The engine is built."""


class Warm(msgspec.Struct, frozen=True, tag=True):
    """The engine has run a pass, and has captured the graphs that the pass needs."""


class Sample(msgspec.Struct, frozen=True, tag=True):
    """One measurement: a pass over the load, or the mean of several short ones."""

    cost: float
    """Seconds per completion token: of the pass or, if requests arrive over time, of the requests' own times."""
    seconds: dict[str, float]
    """Time of the pass by phase, with that outside steps as `ELSEWHERE`."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot run."""

    message: str
    """One line for the user."""
    exit_code: int


Answer = Built | Warm | Sample | Failed
