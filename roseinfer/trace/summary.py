"""What `summarize` finds in a trace: the structs that `summarize --json` prints and that every rendering reads.

Milliseconds are floats rounded to whole nanoseconds; percentages are 0 to 100, rounded to two decimals.
"""

from typing import Literal

import msgspec

SCHEMA_VERSION = 1


class TraceInfo(msgspec.Struct, frozen=True):
    """The file."""

    path: str
    events: int
    size_bytes: int
    ranks: list[int]


class CpuSummary(msgspec.Struct, frozen=True):
    """The host's side of the trace."""

    window_ms: float
    top_level_busy_percent: float
    """Share of the window in which any thread was inside an operator."""


class PhaseSummary(msgspec.Struct, frozen=True):
    """The steps of one phase."""

    count: int
    median_ms: float
    p90_ms: float
    tokens_per_step: float | None
    """None where the trace does not say."""


class StepsSummary(msgspec.Struct, frozen=True):
    """Steps of the engine, or of the profiler where no engine marked any."""

    source: str | None
    """The name of the spans that the steps come from; None without steps."""
    count: int
    phases: dict[str, PhaseSummary]


class SpanSummary(msgspec.Struct, frozen=True):
    """All spans of one name."""

    name: str
    calls: int
    wall_ms: float
    self_wall_ms: float


class OpSummary(msgspec.Struct, frozen=True):
    """All calls of one operator on the CPU, or all runs of one kernel, memcpy or memset on the GPU."""

    name: str
    device: Literal["cpu", "gpu"]
    calls: int
    total_ms: float
    self_ms: float
    percent: float
    """Share of all self time on the same kind of device."""


class Trust(msgspec.Struct, frozen=True):
    """A reason to doubt, or to read with care, some of the figures."""

    level: Literal["info", "warning"]
    message: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one trace says."""

    schema_version: int = SCHEMA_VERSION
    trace: TraceInfo
    cpu: CpuSummary
    steps: StepsSummary
    spans: list[SpanSummary]
    top_ops: list[OpSummary]
    trust: list[Trust]


def to_ms(nanoseconds: float) -> float:
    """Nanoseconds as milliseconds, without float noise behind the nanoseconds."""
    return round(float(nanoseconds) / 1e6, 6)


def to_percent(part: float, whole: float) -> float:
    """`part` of `whole` in percent; 0 of nothing."""
    return round(100.0 * float(part) / float(whole), 2) if whole else 0.0
