"""What keeps a GPU waiting, as lines of evidence and of advice for the verdict."""

from typing import NamedTuple

from roseinfer.trace.naming import counted
from roseinfer.trace.summary.device_structs import GpuSummary, RankSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, GapGroup, Repetition, SpanSummary, Sync, WhatIf
from roseinfer.trace.summary.step_structs import PhaseSummary, Roofline, StepsSummary
from roseinfer.trace.summary.trace_summary import Recording

MAX_EVIDENCE = 5


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
    def batchable(self) -> Repetition | None:
        """The repeated launches whose batching saves most, None where nothing can be batched."""
        return next((row for row in self.repetition if row.remedy == "batch"), None)

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


def in_span(name: str) -> str:
    return "outside all spans" if name == NO_SPAN else f"in {name}"


def waiting_ms(found: Findings, gpu: GpuSummary) -> float:
    """Time in synchronizing calls where there is enough of it to matter, else 0."""
    waiting = sum(sync.ms for sync in found.syncs)
    return waiting if waiting > 0.02 * gpu.window_ms else 0.0
