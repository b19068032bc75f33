"""What keeps a GPU waiting, as lines of evidence and of advice for the verdict."""

from typing import NamedTuple

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary import (
    NO_SPAN,
    GapGroup,
    GpuSummary,
    PhaseSummary,
    RankSummary,
    Recording,
    Repetition,
    Roofline,
    SpanSummary,
    StepsSummary,
    Sync,
    WhatIf,
)

MAX_EVIDENCE = 5
_MANY_LAUNCHES = 20
"""A step of fewer launches gains little from being one graph."""
_MANY_EVENTS = 50


class Findings(NamedTuple):
    """What a trace is judged by."""

    gpu: GpuSummary | None
    steps: StepsSummary
    spans: list[SpanSummary]
    gaps: list[GapGroup]
    repetition: list[Repetition]
    syncs: list[Sync]
    what_if: list[WhatIf]
    ranks: list[RankSummary]
    roofline: Roofline | None
    recording: Recording

    @property
    def is_quantized(self) -> bool:
        """Whether the run asked for quantized weights; a run that left it open may have them, too."""
        return self.recording.quantize not in (None, "auto", "none")

    @property
    def is_compute_bound(self) -> bool:
        """Whether the phase that takes most of the time computes as fast as it can, so that a batch gains nothing."""
        phases = self.steps.phases.items()
        phase = max(phases, key=lambda item: item[1].count * item[1].median_ms, default=("", None))[0]
        row = self.roofline.phases.get(phase) if self.roofline else None
        return phase == "prefill" or (row is not None and row.bound == "compute")

    @property
    def slowest(self) -> tuple[str, PhaseSummary | None]:
        """The phase that the GPU waits for most; none where no steps are marked."""
        phases = self.steps.phases.items()
        return max(phases, key=lambda item: item[1].count * item[1].host_idle_ms_per_step, default=("", None))

    @property
    def is_replayed(self) -> bool:
        """Whether graph replays run most of what the GPU waits for."""
        row = self.slowest[1] or self.gpu
        return row is not None and row.replayed_percent >= 50

    @property
    def first_span(self) -> SpanSummary | None:
        """The span to begin with, of those that hold up the GPU, one that repeats what could be batched, or the worst.

        Between graph replays it is the host's own work that counts, so there it need not launch anything.
        """
        idle = sum(span.idle_caused_ms for span in self.spans)
        heavy = [
            span
            for span in self.named_spans
            if span.idle_caused_ms > 0.1 * idle and (span.self_gpu_events or self.is_replayed)
        ]
        batchable = {row.span: row.removable_per_step for row in self.repetition if row.remedy == "batch"}
        return max(heavy, key=lambda span: (batchable.get(span.name, 0), span.idle_caused_ms), default=None)

    @property
    def named_spans(self) -> list[SpanSummary]:
        """The program's own spans, without the profiler's."""
        return [
            span
            for span in self.spans
            if span.calls and span.name != NO_SPAN and not span.name.startswith("ProfilerStep")
        ]


def events_of(span: SpanSummary, steps: StepsSummary) -> str:
    """`408 GPU events a step`, or a call where a step makes several."""
    events = counted(round(span.gpu_events_per_call), "GPU event")
    return f"{events} a {'step' if span.calls == steps.count else 'call'}"


def host_evidence(found: Findings, gpu: GpuSummary) -> list[str]:
    """Two to five lines that say why the GPU idles."""
    cause = gpu.idle_by_cause
    evidence = [
        f"Idle {duration(gpu.idle_ms)} of {duration(gpu.window_ms)}: {duration(cause.host_late_ms)} host late, "
        f"{duration(cause.launch_call_ms)} in launch calls, {duration(cause.device_queue_ms)} in the device's queue"
        + (f", {duration(cause.unlinked_ms)} unexplained." if cause.unlinked_ms else ".")
    ]
    if found.is_replayed:
        evidence.append(_replay_evidence(found, gpu))
    elif gpu.small_percent >= 50 and gpu.launches:
        evidence.append(
            f"{gpu.small_percent:.1f} % of {counted(gpu.gpu_events, 'GPU event')} are under 5 us "
            f"({gpu.small_kernels_percent:.1f} % of kernels; median {gpu.median_event_us:.1f} us): "
            "launching one takes longer than running it."
        )
    evidence += _span_evidence(found)
    if batch := _batch(found):
        sequence = counted(batch.pattern_launches, "launch")
        evidence.append(
            f"{batch.span} repeats a sequence of {sequence} {batch.repeats} times a step; "
            f"batching it would remove about {batch.removable_per_step} of its {batch.launches_per_step} launches."
        )
    if _waiting_ms(found, gpu):
        count = sum(sync.count for sync in found.syncs)
        worst = found.syncs[0]
        evidence.append(
            f"{counted(count, 'synchronizing call')} took {duration(_waiting_ms(found, gpu))}, "
            f"most in {worst.call} ({worst.op}, {_in_span(worst.span)})."
        )
    evidence += exposed_evidence(found)
    if len(evidence) < 2:
        evidence.append(
            f"{counted(gpu.gpu_events, 'GPU event')}, the median of {gpu.median_event_us:,.1f} us, in "
            f"{counted(gpu.launches, 'launch')}."
        )
    return evidence[:MAX_EVIDENCE]


def host_advice(found: Findings, gpu: GpuSummary) -> list[str]:
    """What to do about it, the most promising first; the last line is the bound on all of it."""
    advice: list[str] = []
    host_ms = gpu.idle_by_cause.host_late_ms + gpu.idle_by_cause.launch_call_ms
    if batch := _batch(found):
        fewer = counted(batch.removable_per_step, "launch")
        advice.append(f"Batch what {batch.span} repeats into one kernel: about {fewer} a step less.")
    if _waiting_ms(found, gpu):
        worst = found.syncs[0]
        if worst.op == "Python" and found.is_replayed:
            advice.append(
                f"Read results one step late: {worst.call} {_in_span(worst.span)} waits {duration(worst.ms)}."
            )
        else:
            advice.append(f"Remove the waits {_in_span(worst.span)} ({worst.op}): {worst.note}.")
    if host_ms > 0.3 * gpu.window_ms:
        advice += _launch_advice(found, gpu)
    python = sum(gap.ms for gap in found.gaps if gap.doing == "python")
    if python > 0.3 * gpu.idle_by_cause.host_late_ms and not found.is_replayed:
        advice.append(f"Plan ahead of the GPU: plain Python between operators costs it {duration(python)}.")
    advice += _queue_advice(gpu)
    advice += exposed_advice(found)
    if found.what_if:
        best = found.what_if[0]
        advice.append(f"Bound: {best.change} saves at most {duration(best.saves_ms)} ({best.speedup:.2f}x).")
    return advice


def exposed_evidence(found: Findings) -> list[str]:
    """Collectives that ran while the device did nothing else, where they take much of its time."""
    rank = _most_exposed(found)
    if rank is None:
        return []
    return [
        f"Collectives take {duration(rank.communication_ms)} on rank {rank.rank}; "
        f"the GPU runs nothing else during {duration(rank.exposed_communication_ms)} of that."
    ]


def exposed_advice(found: Findings) -> list[str]:
    """What to do about them."""
    if _most_exposed(found) is None:
        return []
    return [
        "Overlap communication with computation, or make it smaller; ranks that wait for a slower one show here too."
    ]


def _most_exposed(found: Findings) -> RankSummary | None:
    exposed = [row for row in found.ranks if row.exposed_communication_ms >= 0.1 * row.gpu_ms > 0]
    return max(exposed, key=lambda row: row.exposed_communication_ms, default=None)


def _batch(found: Findings) -> Repetition | None:
    return next((row for row in found.repetition if row.remedy == "batch"), None)


def _waiting_ms(found: Findings, gpu: GpuSummary) -> float:
    """Time in synchronizing calls where there is enough of it to matter, else 0."""
    waiting = sum(sync.ms for sync in found.syncs)
    return waiting if waiting > 0.02 * gpu.window_ms else 0.0


def _in_span(name: str) -> str:
    return "outside all spans" if name == NO_SPAN else f"in {name}"


def _replay_evidence(found: Findings, gpu: GpuSummary) -> str:
    phase, row = found.slowest
    if row is None:
        return f"Graph replays run {gpu.replayed_percent:.0f} % of the GPU events."
    return (
        f"{phase}: graph replays run {row.replayed_percent:.0f} % of the GPU events, {row.launches_per_step:,.1f} "
        f"launches a step; the GPU works {duration(row.gpu_ms_per_step)} a step and waits "
        f"{duration(row.host_idle_ms_per_step)} for the host."
    )


def _span_evidence(found: Findings) -> list[str]:
    """The span to begin with, and one more that launches much."""
    first = found.first_span
    worst = sorted(found.named_spans, key=lambda span: -span.idle_caused_ms)
    shown = [span for span in worst if span.gpu_events_per_call >= 20 and span.self_gpu_events and span != first]
    lines: list[str] = []
    for span in ([first] if first else []) + shown[: not found.is_replayed]:
        work = f"{events_of(span, found.steps)} for {duration(span.gpu_ms / span.calls)} of GPU time" * bool(
            span.gpu_events
        )
        lines.append(
            f"{span.name}: {work or counted(span.calls, 'call')} in {duration(span.wall_ms / span.calls)}"
            f"{'' if work else ' each'}; it holds up the GPU for {duration(span.idle_caused_ms)} in all."
        )
    return lines


def _launch_advice(found: Findings, gpu: GpuSummary) -> list[str]:
    """A graph for what is launched one by one; where graphs are replayed already, what to do between replays."""
    phase, row = found.slowest
    step = f"the {phase} step" if phase not in ("", "step") else "the step"
    if found.is_replayed:
        if row and row.launches_per_step >= _MANY_LAUNCHES:
            return [
                f"Capture all of {step} in one graph: graphs run {row.replayed_percent:.0f} % of its GPU events, "
                f"but it still makes {row.launches_per_step:,.0f} launches."
            ]
        return [_between_replays(found)]
    if row is None:
        eager = gpu.gpu_events * (1 - gpu.replayed_percent / 100)
        text = f"Capture what repeats in a CUDA graph: {eager:,.0f} GPU events are launched one by one."
        return [text] * (eager >= _MANY_EVENTS)
    eager = row.gpu_events_per_step * (1 - row.replayed_percent / 100)
    text = f"Capture {step} in a CUDA graph: it launches {eager:,.0f} GPU events one by one."
    return [text] * (eager >= _MANY_EVENTS)


def _between_replays(found: Findings) -> str:
    late = [gap for gap in found.gaps if gap.cause in ("host_late", "launch_call")]
    if not late:
        return "Launch several steps at once: the GPU waits for the host between graph replays."
    worst = late[0]
    doing = "plain Python" if worst.doing == "python" else worst.name
    blame = f"The GPU waits between graph replays, most for {doing} {_in_span(worst.span)} ({duration(worst.ms)})"
    if worst.cause == "launch_call":
        return f"{blame}: launch several steps at once."
    if worst.doing == "sync":
        return f"{blame}: read results one step late, so that the host need not wait, or launch several steps at once."
    return f"{blame}: do it while the GPU runs the step before (overlap), or launch several steps at once."


def _queue_advice(gpu: GpuSummary) -> list[str]:
    """For idle time that is not the host's."""
    cause = gpu.idle_by_cause
    if cause.unlinked_ms > 0.5 * gpu.idle_ms:
        return ["Record CPU activity too, from before the first launch: without launches the gaps cannot be explained."]
    if cause.device_queue_ms <= 0.5 * gpu.idle_ms:
        return []
    if gpu.replayed_percent >= 50:
        apart = 1000 * cause.device_queue_ms / gpu.gpu_events
        return [
            f"Fuse kernels, or let them start early (programmatic dependent launch): inside replays the GPU idles "
            f"{duration(cause.device_queue_ms)}, {apart:.1f} us an event."
        ]
    return [
        f"Launched in time, started late, {duration(cause.device_queue_ms)} in all: look for waits between streams, "
        "copies, and chains of tiny kernels."
    ]
