"""What `summarize` finds in a trace: the structs that `summarize --json` prints and that every rendering reads.

Milliseconds are floats of whole nanoseconds; percentages are 0 to 100, rounded to two decimals.
"""

from typing import Literal

import msgspec

SCHEMA_VERSION = 1

NO_SPAN = "(no span)"
"""The row of what was launched outside all spans, or has no launch in the trace."""


class TraceInfo(msgspec.Struct, frozen=True):
    """The file, or the folder."""

    path: str
    events: int
    size_bytes: int
    ranks: list[int]


class IdleByCause(msgspec.Struct, frozen=True):
    """Idle time of a GPU, by what held up the event that ended each gap."""

    host_late_ms: float
    """Before the launch call began."""
    launch_call_ms: float
    """Inside the launch call."""
    device_queue_ms: float
    """After the launch call."""
    unlinked_ms: float
    """The launch is not in the trace."""


class GpuSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All devices together: times added, percentages weighted."""

    busy_percent: float
    window_ms: float
    """First event's start to last event's end."""
    busy_ms: float
    """The union of the events over all streams."""
    idle_ms: float
    idle_by_cause: IdleByCause
    gpu_events: int
    kernels: int
    linked_percent: float
    """Events whose launch is in the trace."""
    small_percent: float
    """GPU events shorter than 5 us."""
    small_kernels_percent: float
    """Kernels shorter than 5 us, of all kernels."""
    median_event_us: float
    launches: int
    """Launch calls in the trace that started GPU events; a graph replay is one."""
    replayed_percent: float
    """GPU events started by graph launches."""
    median_launch_to_start_us: float
    """From the end of the launch call to the event's start: time in the queue, long where the host runs far ahead."""


class DeviceSummary(GpuSummary, frozen=True, kw_only=True):
    """One device."""

    id: int
    name: str
    rank: int
    timeline: list[float]
    """The busy share, 0 to 1, of equal parts of the window."""


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


class SpanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All spans of one name. `self_` leaves out inner spans; without it they count too."""

    name: str
    calls: int
    wall_ms: float
    self_wall_ms: float
    gpu_ms: float
    """Durations of the GPU events launched inside, added up."""
    self_gpu_ms: float
    gpu_events: int
    self_gpu_events: int
    gpu_events_per_call: float
    self_gpu_events_per_call: float
    kernels: int
    """The kernels among `gpu_events`."""
    small_percent: float
    idle_caused_ms: float
    """Host-late and launch-call time while this was the innermost span of the launching thread."""
    self_op_ms: float
    """Time inside operators while this was the innermost span; the rest of the self time is plain Python."""
    self_custom_op_ms: float
    """The part of it in operators that are not torch's own, which torch.compile cannot look into."""
    parent: str | None
    """The span that it is in most often, None at the top."""


class GapGroup(msgspec.Struct, frozen=True):
    """Idle time of the GPU with one cause, one thing the launching thread was doing, and one span."""

    cause: Literal["host_late", "launch_call", "device_queue", "unlinked"]
    doing: Literal["sync", "op", "call", "python", "queue", "unknown"]
    """What the launching thread was in: a synchronizing call, an operator, another runtime call, or none of them."""
    name: str
    span: str
    ms: float
    percent: float
    """Share of all idle time."""
    gaps: int
    longest_us: float
    longest_step: int | None
    """The step that the longest piece lies in."""


class Repetition(msgspec.Struct, frozen=True):
    """One sequence of launches that a step repeats."""

    span: str
    phase: str
    launches_per_step: int
    """Launches of the span in the step looked at."""
    pattern: list[str]
    """The first names of the repeated sequence."""
    pattern_launches: int
    repeats: int
    removable_per_step: int
    """Launches that the remedy would save: all repeats but the first, or all operators of each repeat but one."""
    remedy: Literal["batch", "graph", "compile", "fuse"]
    """`batch` for copies and elementwise work in one go. Else the repeats depend on each other, by matrix products or
    by other work of the step between them: `graph` on a GPU, `compile` on a CPU, and `fuse` where the operators are
    custom ones, which a compiler cannot look into."""


class Sync(msgspec.Struct, frozen=True):
    """A kind of call that made the host wait for the device, at one place."""

    call: str
    op: str
    """The operator that it was called by, or `Python`."""
    span: str
    count: int
    per_step: float | None
    ms: float
    """Time inside the calls."""
    note: str


class WhatIf(msgspec.Struct, frozen=True):
    """A bound: what a change could save at the very most."""

    change: str
    saves_ms: float
    saves_percent: float
    """Of the GPU's window, or of the host's where there is no GPU."""
    speedup: float


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


class OpSummary(msgspec.Struct, frozen=True):
    """All calls of one operator on the CPU, or all runs of one kernel, memcpy or memset on the GPU."""

    name: str
    device: Literal["cpu", "gpu"]
    calls: int
    total_ms: float
    self_ms: float
    percent: float
    """Share of all self time on the same kind of device."""


class RankSummary(msgspec.Struct, frozen=True):
    """One rank of several."""

    rank: int
    median_step_ms: float | None
    busy_percent: float | None
    gpu_ms: float
    communication_ms: float
    """Union of the collective kernels."""
    exposed_communication_ms: float
    """The part of it in which the device ran nothing else."""


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


class SpanCost(msgspec.Struct, frozen=True):
    """What one span takes in a step, inner spans counted."""

    wall_ms: float
    gpu_events: float


class PhaseCosts(msgspec.Struct, frozen=True):
    """What a step of one phase spends on average, by name."""

    spans: dict[str, SpanCost]
    operators: dict[str, float]
    """Self time on the CPU in ms."""
    kernels: dict[str, float]
    """Time of the GPU events that the step launched, in ms."""


class Change(msgspec.Struct, frozen=True):
    """One figure, before and after."""

    phase: str | None
    """The phase whose steps it is of; None where it is of the whole trace."""
    name: str
    unit: str
    baseline: float
    new: float
    change_percent: float | None
    """None where the baseline is 0."""


class PhaseChange(msgspec.Struct, frozen=True):
    """The median step of one phase, before and after."""

    phase: str
    baseline_ms: float
    new_ms: float
    change_percent: float
    noise_percent: float | None
    """Two standard errors of the difference; None with fewer than two steps on either side."""
    baseline_ms_per_token: float | None
    new_ms_per_token: float | None
    verdict: Literal["faster", "slower", "no clear change"]


class Comparison(msgspec.Struct, frozen=True):
    """Two traces, figure by figure; spans and kernels per step of each phase that both have."""

    baseline: str
    warnings: list[str]
    """Why the figures may not compare: what differs between the runs, and the baseline's own warnings."""
    phases: list[PhaseChange]
    spans: list[Change]
    kernels: list[Change]
    kernels_on: Literal["cpu", "gpu"]
    """Whether `kernels` are GPU events or, where not both traces have any, the CPU's operators."""
    launches: list[Change]
    headline: str
    fail_above_percent: float | None
    failed: bool


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
    comparison: Comparison | None
    top_ops: list[OpSummary]
    ranks: list[RankSummary]
    typical_step: TypicalStep | None
    verdict: Verdict
    trust: list[Trust]
    recording: Recording
    phase_costs: dict[str, PhaseCosts]


def to_ms(nanoseconds: float) -> float:
    """Nanoseconds as milliseconds, without float noise behind the nanoseconds."""
    return round(float(nanoseconds) / 1e6, 6)


def to_percent(part: float, whole: float) -> float:
    """`part` of `whole` in percent; 0 of nothing."""
    return round(100.0 * float(part) / float(whole), 2) if whole else 0.0
