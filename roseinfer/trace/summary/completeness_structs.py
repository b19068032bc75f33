"""Structs that say which records of a trace are missing."""

from typing import Literal

import msgspec


class MissingRecords(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one kind that the recording should hold and does not."""

    kind: Literal[
        "gpu_not_recorded",
        "gpu_head",
        "gpu_tail",
        "gpu_during_wait",
        "launch_without_event",
        "event_without_launch",
        "graph_without_kernels",
        "overlapping_kernels",
        "impossible_times",
        "file_truncated",
    ]
    what: str
    """Sentence that names the missing records, with their number."""
    count: int
    from_ms: float | None
    """Start of the stretch without records, in ms since the trace's first event; None if the time is not known."""
    to_ms: float | None
    decisive: bool
    """True if so much is missing that the trace cannot say what limits the run."""


class Completeness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all records are there that the verdict rests on."""

    complete: bool
    """True if nothing decisive is missing."""
    missing: list[MissingRecords]
