"""The summary of a trace: the struct that `summarize --json` prints and that every rendering reads.

Milliseconds are rounded to whole nanoseconds; percentages run from 0 to 100 and have two decimals.
"""

from typing import Literal

import msgspec

from roseinfer.notebook import notebook_html, short_repr
from roseinfer.trace.summary.budget_structs import BudgetSummary
from roseinfer.trace.summary.comparison_structs import PhaseCosts, TraceComparison
from roseinfer.trace.summary.completeness_structs import Completeness
from roseinfer.trace.summary.device_structs import CpuSummary, DeviceSummary, GpuSummary, Platform, RankSummary
from roseinfer.trace.summary.finding_structs import Finding, GapGroup, OpSummary, Repetition, SpanSummary, Sync, WhatIf
from roseinfer.trace.summary.memory_structs import DeviceMemory
from roseinfer.trace.summary.rank_structs import CollectiveSummary, JobSummary
from roseinfer.trace.summary.step_structs import Roofline, StepsSummary, TypicalStep
from roseinfer.trace.summary.work_structs import CategoryWork, DevicePeaks, KernelWork, OperatorWork, StackWork

SCHEMA_VERSION = 2

VerdictKind = Literal[
    "host_bound",
    "data_bound",
    "communication_bound",
    "straggler",
    "imbalanced",
    "copy_bound",
    "gpu_bound",
    "balanced",
    "cpu_only",
    "incomplete",
    "capture",
    "empty",
]
"""Limit of the run, or the reason why the trace cannot tell it; docs/verdicts.md explains the kinds."""


class TraceInfo(msgspec.Struct, frozen=True):
    """The trace file, or the folder of trace files, that was summarized."""

    path: str
    events: int
    """Number of events in the trace, whether used or not."""
    size_bytes: int
    """Size of the file on disk; the sum of the sizes for a folder."""
    ranks: list[int]
    """Ranks of the processes that recorded the trace."""


class Verdict(msgspec.Struct, frozen=True):
    """Judgement on what limits the run: a headline, the evidence for it, and advice."""

    kind: VerdictKind
    headline: str
    evidence: list[str]
    advice: list[str]


class Trust(msgspec.Struct, frozen=True):
    """A reason to doubt some of the figures, or to read them with care."""

    level: Literal["info", "warning"]
    message: str


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions under which the trace was recorded; None if neither the trace nor its manifest names them."""

    device: str | None
    platform: Platform | None = None
    """Kind of the devices with GPU events; None without GPU events."""
    recorded_at: str | None = None
    """Time of the trace's first event, in UTC and ISO 8601, such as `2026-11-22T20:17:05Z`."""
    versions: dict[str, str] = {}
    """Versions of the software that was recorded, such as those of torch and cuda; unknown ones are left out."""
    model: str | None
    dtype: str | None
    quantize: str | None
    """Value of the option --quantize, such as `auto` or `none`."""
    with_stack: bool
    profile_memory: bool
    record_shapes: bool
    waiting_percent: float | None = None
    """Share of their time in which the computing threads waited for a core, before the recording and without the
    profiler; None if unknown. From 5 % on, other programs slowed the run down."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All findings of one trace."""

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
    operators: list[OperatorWork] = []
    """Time by operator, shapes and types, at most 1,000 rows; `self_gpu_ms` adds up to the time of all GPU events."""
    peaks: DevicePeaks | None = None
    """Peaks of the devices that the rooflines of `operators` compare with; None if they are not known."""
    kernels: list[KernelWork] = []
    """GPU events by name, at most 1,000 rows."""
    categories: list[CategoryWork] = []
    """GPU events by what they compute."""
    memory: list[DeviceMemory] = []
    """Memory of torch's allocators by device; empty without `profile_memory`."""
    modules: list[StackWork] = []
    """Time by chain of modules, at most 1,000 rows; empty without Python stacks."""
    stacks: list[StackWork] = []
    """Time by stack of Python functions, at most 200 rows; empty without Python stacks."""
    ranks: list[RankSummary]
    collectives: list[CollectiveSummary] = []
    """Collectives that are matched over several ranks, the longest first."""
    job: JobSummary | None = None
    """Waits of several ranks for each other; None without matched collectives."""
    typical_step: TypicalStep | None
    budget: BudgetSummary | None = None
    """Wall time split into what the devices did or waited for; None for a trace without events."""
    completeness: Completeness
    verdict: Verdict
    findings: list[Finding]
    """Reducible shares of the wall time; the largest cause comes first, and the largest kernel last."""
    trust: list[Trust]
    recording: Recording
    phase_costs: dict[str, PhaseCosts]

    def __repr__(self) -> str:
        """Return one line with kind and headline of the verdict."""
        return short_repr("Summary", self.verdict.kind, self.verdict.headline)

    def _repr_html_(self) -> str:
        return notebook_html(self)
