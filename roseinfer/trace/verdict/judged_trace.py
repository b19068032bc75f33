"""A trace as the rules of the verdict see it: its findings so far, and what kind of run it was."""

from collections import defaultdict
from typing import Literal, NamedTuple

import msgspec

from roseinfer.trace.findings.lead_in import LeadIn
from roseinfer.trace.naming import counted
from roseinfer.trace.reading.trace_manifest import ManifestHost
from roseinfer.trace.summary.budget_structs import BudgetSummary, ExposedWork, IdleCause, IdlePlace, TimeBudget
from roseinfer.trace.summary.completeness_structs import Completeness
from roseinfer.trace.summary.device_structs import CpuSummary, GpuSummary, Platform, RankSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, OpSummary, Repetition, SpanSummary, WhatIf
from roseinfer.trace.summary.memory_structs import DeviceMemory
from roseinfer.trace.summary.rank_structs import CollectiveSummary, JobSummary
from roseinfer.trace.summary.step_structs import PhaseSummary, Roofline, StepsSummary
from roseinfer.trace.summary.trace_summary import Recording, VerdictKind
from roseinfer.trace.summary.work_structs import DevicePeaks, OperatorWork
from roseinfer.trace.verdict.thresholds import CAPTURE_PERCENT, LONG_STRETCH_US, SHOWN_PERCENT, SPAN_PERCENT
from roseinfer.trace.verdict.verdict_kind import Shares, kind_of, shares_of

LAUNCH_CAUSES: tuple[IdleCause, ...] = ("launch_calls", "operators", "python")
"""Causes of idle time in which the host works towards the next launch."""
_TRAINING = ("autograd::engine", "optimizer.step#", "backward", "fusedadam", "fused_adam", "multi_tensor_apply")


class JudgedTrace(NamedTuple):
    """The findings that the rules use; lists are sorted, the largest first."""

    gpu: GpuSummary | None
    cpu: CpuSummary
    steps: StepsSummary
    spans: list[SpanSummary]
    top_ops: list[OpSummary]
    repetition: list[Repetition]
    what_if: list[WhatIf]
    roofline: Roofline | None
    recording: Recording
    budget: BudgetSummary | None
    completeness: Completeness
    platform: Platform
    host: ManifestHost | None
    """Threads and cores of a run of this program; None for other recordings."""
    lead_in: LeadIn
    lost_gpu: str | None
    """GPUs whose events are missing from a truncated file; None for a whole file."""
    ranks: list[RankSummary]
    """Figures of each rank; empty for one rank without collectives."""
    job: JobSummary | None
    """Waits of several ranks for each other; None for one rank."""
    collectives: list[CollectiveSummary]
    """Collectives that are matched over several ranks, the longest first."""
    operators: list[OperatorWork]
    """Time by operator, shapes and types, the longest first."""
    peaks: DevicePeaks | None
    """Peaks of the devices; None if they are not known."""
    memory: list[DeviceMemory]
    """Memory of torch's allocators by device; empty if it is not recorded."""
    has_stacks: bool
    """True if the trace has Python functions."""

    @property
    def total(self) -> TimeBudget:
        """Budget of the whole recording, of all devices, without the time before their first event that is unexplained.

        In that time the devices may have run work from before the recording. Only traces with work have a budget.
        """
        assert self.budget is not None
        total, lead_in = self.budget.total, self.lead_in
        queued_ms = min(lead_in.queued_ms, total.queue_ms)
        unknown_ms = min(lead_in.queued_ms - queued_ms + lead_in.unknown_ms, total.not_recorded_ms)
        if 100 * (queued_ms + unknown_ms) < SHOWN_PERCENT * total.wall_ms:
            return total
        return msgspec.structs.replace(
            total,
            wall_ms=total.wall_ms - queued_ms - unknown_ms,
            queue_ms=total.queue_ms - queued_ms,
            not_recorded_ms=total.not_recorded_ms - unknown_ms,
        )

    @property
    def waits_ms(self) -> float:
        """Time of all ranks in which they wait for ranks that are recorded, and compute nothing; 0 for one rank."""
        job = self.job
        return max(0.0, job.exposed_wait_ms - job.unrecorded_wait_ms) if job else 0.0

    @property
    def transfer_ms(self) -> float:
        """Exposed communication of all ranks without their waits for each other; all of it for one rank."""
        return self.total.exposed_communication_ms - (self.job.exposed_wait_ms if self.job else 0.0)

    @property
    def shares(self) -> Shares:
        """Shares of the wall time: computation, and each cause of lost time."""
        return shares_of(self.total, self.waits_ms, self.job.unrecorded_wait_ms if self.job else 0.0)

    @property
    def kind(self) -> VerdictKind:
        """Kind of verdict on a complete recording of a run with a device."""
        kind = kind_of(self.shares)
        return self.waiting_kind if kind == "imbalanced" else kind

    @property
    def waiting_kind(self) -> Literal["straggler", "imbalanced"]:
        """Kind of verdict on a job that mostly waits: whether one rank causes most of it."""
        return "straggler" if self.job and self.job.straggler else "imbalanced"

    @property
    def unknown_ms(self) -> float:
        """Time before the devices' first event in which they may have run work from before the recording."""
        return self.budget.total.wall_ms - self.total.wall_ms if self.budget else 0.0

    @property
    def exposed(self) -> list[ExposedWork]:
        """Collectives and copies that no computation overlaps, the longest first."""
        return self.budget.exposed if self.budget else []

    @property
    def is_capture(self) -> bool:
        """True if captures took most of the time or of the launches.

        That is also the case if captured launches are at least a third of all and no graph is replayed: each capture
        then follows one or two runs that warm up.
        """
        capture = self.completeness.capture
        if capture is None or capture.launches == 0:
            return False
        events, replayed = (self.gpu.gpu_events, self.gpu.replayed_percent > 0) if self.gpu else (0, False)
        is_most = capture.launches > events or (not replayed and 2 * capture.launches >= events)
        return is_most or capture.percent >= CAPTURE_PERCENT

    @property
    def device(self) -> str:
        """Word for the device in sentences."""
        return "device" if self.platform in ("mtia", "other") else "GPU"

    @property
    def graph(self) -> str | None:
        """Name of the platform's captured graphs; None if it has none."""
        return {"cuda": "CUDA graph", "rocm": "HIP graph"}.get(self.platform)

    @property
    def is_training(self) -> bool:
        """True if the trace holds a backward pass or an optimizer."""
        names = [op.name for op in self.top_ops] + [span.name for span in self.spans]
        return any(word in name.lower() for name in names for word in _TRAINING)

    @property
    def on_several(self) -> str:
        """` on 2 GPUs together` if times of the budget are sums over several devices; empty for one device."""
        number = len(self.budget.devices) if self.budget else 1
        what = self.device if self.gpu else "rank"
        return f" on {counted(number, what)} together" if number > 1 else ""

    @property
    def is_own(self) -> bool:
        """True for a recording by `roseinfer profile`, whose manifest has the step's floor."""
        return self.roofline is not None

    @property
    def is_quantized(self) -> bool:
        """True if the run asked for quantized weights; with `auto` or no manifest they may be quantized too."""
        return self.recording.quantize not in (None, "auto", "none")

    @property
    def main_phase(self) -> str:
        """Phase that takes most of the time; empty without marked steps."""
        spent_ms = {phase: sum(step.ms for step in self.steps.of_phase(phase)) for phase in self.steps.phases}
        return max(spent_ms, key=lambda phase: spent_ms[phase], default="")

    @property
    def is_compute_bound(self) -> bool:
        """True if the main phase is compute-bound, so that a larger batch gains nothing."""
        row = self.roofline.phases.get(self.main_phase) if self.roofline else None
        return self.main_phase == "prefill" or (row is not None and row.bound == "compute")

    @property
    def slowest(self) -> tuple[str, PhaseSummary | None]:
        """(name, figures) of the phase in which the GPU waits longest for the host; ("", None) without marked steps."""
        phases = self.steps.phases.items()
        return max(phases, key=lambda item: item[1].count * item[1].host_idle_ms_per_step, default=("", None))

    @property
    def is_replayed(self) -> bool:
        """True if graph replays run at least half of the GPU events of the slowest phase, or of the whole trace."""
        row = self.slowest[1] or self.gpu
        return row is not None and row.replayed_percent >= 50

    @property
    def named_spans(self) -> list[SpanSummary]:
        """The program's spans, without the profiler's own."""
        return [
            span
            for span in self.spans
            if span.calls and span.name != NO_SPAN and not span.name.startswith("ProfilerStep")
        ]

    def places(self, *causes: IdleCause) -> list[IdlePlace]:
        """Return the places of idle time with these causes, the longest first."""
        return [place for place in self.budget.idle if place.cause in causes] if self.budget else []

    @property
    def launch_ms(self) -> float:
        """Idle time in which the host only went from one launch to the next."""
        return sum(launching_ms(place) for place in self.places(*LAUNCH_CAUSES))

    @property
    def first_span(self) -> tuple[SpanSummary, float] | None:
        """(span to optimize first, idle time between its launches in ms); None if no span causes enough of it.

        Among the spans that cause more than 10 % of the idle time between launches, this is the span with most
        batchable launches, else the span that causes most idle time.
        """
        idle: defaultdict[str, float] = defaultdict(float)
        for place in self.places(*LAUNCH_CAUSES):
            idle[place.span] += launching_ms(place)
        enough = SPAN_PERCENT / 100 * sum(idle.values())
        heavy = [span for span in self.named_spans if idle[span.name] > enough and span.self_gpu_events]
        batchable = {row.span: row.removable_per_step for row in self.repetition if row.remedy == "batch"}
        best = max(heavy, key=lambda span: (batchable.get(span.name, 0), idle[span.name]), default=None)
        return (best, idle[best.name]) if best else None

    @property
    def batchable(self) -> Repetition | None:
        """Repeated launch sequence that saves most launches if batched; None if no sequence can be batched."""
        return next((row for row in self.repetition if row.remedy == "batch"), None)


def launching_ms(place: IdlePlace) -> float:
    """Return the part of the idle time at a place in which the host only went from one launch to the next.

    That is all of it if the place takes less than 200 us per stretch, however many such places a stretch holds.
    """
    return place.ms if 1000 * place.ms < LONG_STRETCH_US * place.gaps else place.short_ms


def events_of(judged: JudgedTrace, span: SpanSummary) -> str:
    """Return a text such as `408 GPU events per step`, or `per call` for a span with several calls per step."""
    events = counted(round(span.gpu_events_per_call), f"{judged.device} event")
    return f"{events} per {'step' if span.calls == judged.steps.rank_steps else 'call'}"


def in_span(name: str) -> str:
    """Return `in NAME`, or `outside all spans`."""
    return "outside all spans" if name == NO_SPAN else f"in {name}"
