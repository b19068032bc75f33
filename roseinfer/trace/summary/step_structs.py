"""Structs of a summary about steps: per phase, against the hardware's ceilings, and a typical step in detail."""

from typing import Literal

import msgspec


class PhaseSummary(msgspec.Struct, frozen=True):
    """Figures of all steps of one phase."""

    count: int
    median_ms: float
    """Median duration of a step's span."""
    p90_ms: float
    std_ms: float
    """Sample standard deviation; 0 for a single step."""
    gpu_events_per_step: float
    launches_per_step: float
    """Launch calls that started GPU events, per step; a graph replay counts once."""
    replayed_percent: float
    """Share of GPU events that graph launches started."""
    host_idle_ms_per_step: float
    """GPU idle time of causes `host_late` and `launch_call` before the GPU events launched in a step, averaged."""
    gpu_ms_per_step: float
    """Sum of the durations of the GPU events launched in a step, averaged over steps."""
    tokens_per_step: float | None
    """Mean number of tokens per step; None if the trace does not tell."""
    batch_per_step: float | None
    """Mean number of requests per step; None if the trace does not tell."""


class Outlier(msgspec.Struct, frozen=True):
    """A step that took far longer than the median step of its phase."""

    step: int
    """Index of the step, in order of time."""
    phase: str
    ms: float
    times_median: float


class StepsSummary(msgspec.Struct, frozen=True):
    """All steps, as marked by the engine or, failing that, by the profiler."""

    source: str | None
    """Kind of span that marks the steps, such as `roseinfer.step` or `vLLM`; None without steps."""
    count: int
    phases: dict[str, PhaseSummary]
    outliers: list[Outlier]
    """The slowest steps relative to the median of their phase, worst first."""


class PhaseRoofline(msgspec.Struct, frozen=True):
    """Steps of one phase compared with the device's measured ceilings."""

    steps: int
    median_ms: float
    """Median step time, from the source that `Roofline` names."""
    floor_ms: float
    """Shortest possible step: the median step's bytes at the measured bandwidth, or its FLOPs at the measured rate."""
    bound: Literal["memory", "compute"]
    """`memory` if the bytes take longer than the FLOPs, else `compute`."""
    mbu_percent: float
    """Model bandwidth utilization: time for the bytes at full bandwidth, as a share of `median_ms`."""
    mfu_percent: float
    """Model FLOPs utilization: time for the FLOPs at full rate, as a share of `median_ms`."""


class Roofline(msgspec.Struct, frozen=True):
    """Step times compared with the device's ceilings, which the manifest in the folder of the trace lists."""

    source: Literal["baseline", "trace"]
    """Source of the step times: `baseline` for the unprofiled pass of the same run, or `trace`."""
    copy_bytes_per_s: float
    """Measured memory bandwidth."""
    flops_per_s: float
    """Measured rate of matrix products."""
    phases: dict[str, PhaseRoofline]


class Segment(msgspec.Struct, frozen=True):
    """A named stretch of a step, with times counted from the step's start."""

    name: str
    row: int
    """Row in which to draw the segment; inner spans are in later rows."""
    start_us: float
    end_us: float


class StepBusy(msgspec.Struct, frozen=True):
    """Busy time of a GPU with the events of one step."""

    name: str
    shares: list[float]
    """Busy share, 0 to 1, of each of some equal parts of the picture."""
    events: list[Segment] = []
    """The longest GPU events, in rows in which none overlaps another."""


class TypicalStep(msgspec.Struct, frozen=True):
    """The step of median duration in the most frequent phase, ready to be drawn as a timeline."""

    step: int
    phase: str
    ms: float
    end_us: float
    """End of the picture: the end of the step or of its last GPU event, whichever is later."""
    spans: list[Segment]
    busy: list[StepBusy]
    """Busy time of each GPU that the step used."""
    gaps: list[Segment]
    """The longest GPU gaps, split and named by cause."""
