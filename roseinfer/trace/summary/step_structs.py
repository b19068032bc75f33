"""What a summary says of steps."""

from typing import Literal

import msgspec


class PhaseSummary(msgspec.Struct, frozen=True):
    """The steps of one phase."""

    count: int
    median_ms: float
    p90_ms: float
    std_ms: float
    """Standard deviation of the sample; 0 with one step."""
    gpu_events_per_step: float
    launches_per_step: float
    """Launch calls that started them; a graph replay is one."""
    replayed_percent: float
    """Share of the GPU events that graph launches started."""
    host_idle_ms_per_step: float
    """Host-late and launch-call time before the GPU events launched in a step."""
    gpu_ms_per_step: float
    """Mean of the durations of the GPU events launched in a step, added up."""
    tokens_per_step: float | None
    """None where the trace does not say."""
    batch_per_step: float | None
    """Requests in a step; None where the trace does not say."""


class Outlier(msgspec.Struct, frozen=True):
    """A step that took far longer than its phase's median."""

    step: int
    phase: str
    ms: float
    times_median: float


class StepsSummary(msgspec.Struct, frozen=True):
    """Steps of the engine, or of the profiler where no engine marked any."""

    source: str | None
    """The kind of spans that the steps come from; None without steps."""
    count: int
    phases: dict[str, PhaseSummary]
    outliers: list[Outlier]


class PhaseRoofline(msgspec.Struct, frozen=True):
    """How near the device's measured ceilings the steps of one phase came."""

    steps: int
    median_ms: float
    floor_ms: float
    """What the bytes or the FLOPs of a median step take at the ceiling."""
    bound: Literal["memory", "compute"]
    mbu_percent: float
    mfu_percent: float


class Roofline(msgspec.Struct, frozen=True):
    """Steps against the device's ceilings, from the manifest beside the trace."""

    source: Literal["baseline", "trace"]
    """Whether step times come from the unprofiled pass of the run itself, `baseline`, or from the trace."""
    copy_bytes_per_s: float
    flops_per_s: float
    phases: dict[str, PhaseRoofline]


class Segment(msgspec.Struct, frozen=True):
    """A named stretch of a step, from the step's start."""

    name: str
    row: int
    start_us: float
    end_us: float


class StepBusy(msgspec.Struct, frozen=True):
    """How busy a device was with a step's GPU events."""

    name: str
    shares: list[float]
    """The busy share, 0 to 1, of equal parts of the picture."""


class TypicalStep(msgspec.Struct, frozen=True):
    """The step whose duration is the median of the most frequent phase, drawn out."""

    step: int
    phase: str
    ms: float
    end_us: float
    """The picture's end: the step's, or that of its last GPU event."""
    spans: list[Segment]
    busy: list[StepBusy]
    gaps: list[Segment]
    """The longest gaps, named by cause."""
