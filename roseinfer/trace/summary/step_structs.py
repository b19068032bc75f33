"""Structs of a summary about steps: per phase, against the hardware's ceilings, and a typical step in detail."""

from typing import Literal

import msgspec


class PhaseSummary(msgspec.Struct, frozen=True):
    """Figures of all steps of one phase."""

    count: int
    """Number of steps. A step of a job counts once, however many ranks recorded it."""
    median_ms: float
    """Median time of a step, as in `StepTime`."""
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
    rank_steps: int
    """Number of recorded steps of all ranks, over which the figures `per_step` are averaged."""
    timed_by: Literal["span", "wall"]
    """`wall` if the host runs ahead, so that GPU events usually end well after the span of their step; else `span`."""


class StepTime(msgspec.Struct, frozen=True):
    """Work and time of one step of the job, of which the slowest rank counts.

    The step ends with its span or with the last GPU event that it launched, whichever is later.
    """

    step: int
    """Index of the step, in order of time."""
    phase: str
    batch: int | None
    """Requests in the step; None if the trace does not tell."""
    tokens: int | None
    """Tokens computed in the step; None if the trace does not tell."""
    ms: float
    """Time of the step: from the start of its span, or from the end of the previous step if that is later, to its end.

    On a rank that begins late, time counts from the start of the first rank. Unprofiled steps are timed in the same
    way, so that steps launched ahead of the GPU are comparable.
    """
    span_ms: float
    """Duration of the step's span."""
    gap_ms: float
    """Time before the step in which no rank ran a step; 0 for the first step."""
    tail_ms: float
    """Time by which the step's GPU events end after its span; 0 if they end before."""

    @property
    def work(self) -> tuple[int | None, int | None]:
        """Requests and tokens, by which steps of a phase compute as much."""
        return self.batch, self.tokens


class Outlier(msgspec.Struct, frozen=True):
    """A step that took far longer than its work explains."""

    step: int
    """Index of the job's step, in order of time."""
    phase: str
    ms: float
    """Time of the step, as in `StepTime`."""
    times_median: float
    """Time relative to the median of the steps of the same work.

    If fewer than five steps have the same work, the median is that of the phase. Of a step with more tokens than the
    median step, it is scaled up with the tokens.
    """


class StepsSummary(msgspec.Struct, frozen=True):
    """All steps, as marked by the engine or, failing that, by the profiler."""

    source: str | None
    """Kind of span that marks the steps, such as `roseinfer.step` or `vLLM`; None without steps."""
    count: int
    """Number of steps. A step of a job counts once, however many ranks recorded it."""
    rank_steps: int
    """Number of recorded steps of all ranks."""
    phases: dict[str, PhaseSummary]
    outliers: list[Outlier]
    """The slowest steps relative to the median of steps of the same work, worst first."""
    times: list[StepTime] = []
    """Every step of the job, in order of time."""

    def of_phase(self, phase: str) -> list[StepTime]:
        """Return the steps of a phase."""
        return [step for step in self.times if step.phase == phase]


class PhaseRoofline(msgspec.Struct, frozen=True):
    """Steps of one phase compared with the device's measured ceilings.

    Launches of one phase may differ: one decodes 16 tokens per request, another a single one. All figures are of the
    same steps: medians over steps with as many requests and tokens, averaged over the recorded steps.
    """

    steps: int
    median_ms: float
    """Time of a step, from the source that `Roofline` names."""
    floor_ms: float
    """Shortest possible time: the step's bytes at the measured bandwidth, or its FLOPs at the measured rate."""
    bound: Literal["memory", "compute"]
    """`memory` if the bytes take longer than the FLOPs, else `compute`."""
    mbu_percent: float
    """Model bandwidth utilization: time for the bytes at full bandwidth, as a share of `median_ms`."""
    mfu_percent: float
    """Model FLOPs utilization: time for the FLOPs at full rate, as a share of `median_ms`."""
    traced_ms: float | None = None
    """Time of a step in the trace, over steps of the same work; None if the trace has none."""


class Roofline(msgspec.Struct, frozen=True):
    """Step times compared with the device's ceilings, which the manifest in the folder of the trace lists."""

    source: Literal["baseline", "trace"]
    """Source of the step times: `baseline` for the unprofiled pass of the same run, or `trace`.

    `trace` also if the manifest has one unprofiled time for steps of different work.
    """
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
    """Index of the job's step, in order of time. One of its ranks is drawn."""
    phase: str
    ms: float
    """Time of the step, as in `StepTime`."""
    end_us: float
    """End of the picture: the end of the step or of its last GPU event, whichever is later."""
    spans: list[Segment]
    busy: list[StepBusy]
    """Busy time of each GPU that the step used."""
    gaps: list[Segment]
    """The longest GPU gaps, split and named by cause."""
