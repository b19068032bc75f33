"""Structs that say which records of a trace are missing."""

from typing import Literal

import msgspec

MissingKind = Literal[
    "gpu_not_recorded",
    "gpu_head",
    "gpu_tail",
    "gpu_during_wait",
    "launch_without_event",
    "event_without_launch",
    "graph_without_kernels",
    "graph_replays_differ",
    "overlapping_kernels",
    "impossible_times",
    "file_truncated",
]
"""Kind of records that a recording lacks, or that cannot be right in it."""


class MissingRecords(msgspec.Struct, frozen=True, kw_only=True):
    """Records of one kind that the recording should hold and does not."""

    kind: MissingKind
    what: str
    """Sentence that names the missing records, with their number."""
    count: int
    from_ms: float | None
    """Start of the stretch without records, in ms since the trace's first event; None if the time is not known."""
    to_ms: float | None
    decisive: bool
    """True if so much is missing that the trace cannot say what limits the run."""


class GraphCapture(msgspec.Struct, frozen=True, kw_only=True):
    """Times in which streams recorded launches into graphs: their kernels run when the graphs are replayed."""

    captures: int
    launches: int
    """Launches that were recorded into a graph and not run."""
    ms: float
    """Time in which a capture was in progress."""
    percent: float
    """Share of the recording in which a capture was in progress."""
    from_ms: float
    """Start of the first capture, in ms since the trace's first event."""
    to_ms: float


class Completeness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all records are there that the verdict rests on."""

    complete: bool
    """True if nothing decisive is missing."""
    missing: list[MissingRecords]
    capture: GraphCapture | None
    """Graph captures in the recording; None without any."""
