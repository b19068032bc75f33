"""One event of a Chrome trace as msgspec reads it, and the lenient twin for events that do not fit."""

import math
from typing import Any

import msgspec

Id = int | str | float | None
"""A pid, tid, device, stream or correlation: writers differ in whether it is a number or a string."""


class RawArgs(msgspec.Struct, gc=False):
    """The few `args` that the analysis uses."""

    correlation: Id = None
    device: Id = None
    stream: Id = None


class RawEvent(msgspec.Struct, gc=False):
    """One entry of `traceEvents`; `ts` and `dur` in us."""

    ph: str = ""
    cat: str | None = None
    name: str | None = None
    pid: Id = None
    tid: Id = None
    ts: float = math.nan
    dur: float = 0.0
    args: RawArgs | None = None


class DeviceProperties(msgspec.Struct, frozen=True):
    """What the trace says about one device."""

    id: Id = None
    name: str = ""


class Metadata(msgspec.Struct, frozen=True):
    """The top level of a trace, without its events."""

    schemaVersion: Id = None  # noqa: N815
    deviceProperties: list[DeviceProperties] = []  # noqa: N815
    distributedInfo: dict[str, Any] = {}  # noqa: N815
    traceName: str = ""  # noqa: N815
    with_stack: Id = None
    """This option of the profiler and the next two are written when they were on."""
    profile_memory: Id = None
    record_shapes: Id = None
