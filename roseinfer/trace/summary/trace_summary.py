"""What `summarize` finds in a trace: the struct that `summarize --json` prints and that every rendering reads.

Milliseconds are floats of whole nanoseconds; percentages are 0 to 100, rounded to two decimals.
"""

from typing import Literal

import msgspec

from roseinfer.trace.summary.comparison_structs import PhaseCosts, TraceComparison
from roseinfer.trace.summary.device_structs import CpuSummary, DeviceSummary, GpuSummary, RankSummary
from roseinfer.trace.summary.finding_structs import GapGroup, OpSummary, Repetition, SpanSummary, Sync, WhatIf
from roseinfer.trace.summary.step_structs import Roofline, StepsSummary, TypicalStep

SCHEMA_VERSION = 1


class TraceInfo(msgspec.Struct, frozen=True):
    """The file, or the folder."""

    path: str
    events: int
    size_bytes: int
    ranks: list[int]


class Verdict(msgspec.Struct, frozen=True):
    """The answer in one line, why, and what to do."""

    kind: Literal["host_bound", "gpu_bound", "balanced", "cpu_only", "empty"]
    headline: str
    evidence: list[str]
    advice: list[str]


class Trust(msgspec.Struct, frozen=True):
    """A reason to doubt, or to read with care, some of the figures."""

    level: Literal["info", "warning"]
    message: str


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """How the trace was made, as far as it and its manifest tell; None where they do not."""

    device: str | None
    model: str | None
    dtype: str | None
    quantize: str | None
    """What was asked for, `auto` too."""
    with_stack: bool
    profile_memory: bool
    record_shapes: bool


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one trace says."""

    schema_version: int = SCHEMA_VERSION
    trace: TraceInfo
    gpu: GpuSummary | None
    devices: list[DeviceSummary]
    cpu: CpuSummary
    steps: StepsSummary
    spans: list[SpanSummary]
    gaps: list[GapGroup]
    repetition: list[Repetition]
    syncs: list[Sync]
    what_if: list[WhatIf]
    roofline: Roofline | None
    comparison: TraceComparison | None
    top_ops: list[OpSummary]
    ranks: list[RankSummary]
    typical_step: TypicalStep | None
    verdict: Verdict
    trust: list[Trust]
    recording: Recording
    phase_costs: dict[str, PhaseCosts]
