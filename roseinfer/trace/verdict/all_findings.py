"""The findings that a verdict is based on, with properties that evidence and advice share."""

from typing import NamedTuple

from roseinfer.trace.naming import counted
from roseinfer.trace.summary.device_structs import GpuSummary, RankSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, GapGroup, Repetition, SpanSummary, Sync, WhatIf
from roseinfer.trace.summary.step_structs import PhaseSummary, Roofline, StepsSummary
from roseinfer.trace.summary.trace_summary import Recording

MAX_EVIDENCE = 5


class Findings(NamedTuple):
    """All findings of one trace; lists are sorted, the largest finding first."""

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
        """True if the run asked for quantized weights; with `auto` or no manifest they may be quantized too."""
        return self.recording.quantize not in (None, "auto", "none")

    @property
    def is_compute_bound(self) -> bool:
        """True if the phase that takes most of the time is compute-bound, so that a larger batch gains nothing."""
        phases = self.steps.phases.items()
        phase = max(phases, key=lambda item: item[1].count * item[1].median_ms, default=("", None))[0]
        row = self.roofline.phases.get(phase) if self.roofline else None
        return phase == "prefill" or (row is not None and row.bound == "compute")

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
    def first_span(self) -> SpanSummary | None:
        """Span to optimize first, or None if no span causes enough of the idle time.

        Among the spans that cause more than 10 % of the idle time, this is the span with most batchable launches, else
        the span that causes most idle time. Between graph replays, spans that launch nothing count too.
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
        """Repeated launch sequence that saves most launches if batched; None if no sequence can be batched."""
        return next((row for row in self.repetition if row.remedy == "batch"), None)

    @property
    def named_spans(self) -> list[SpanSummary]:
        """The program's spans, without the profiler's own."""
        return [
            span
            for span in self.spans
            if span.calls and span.name != NO_SPAN and not span.name.startswith("ProfilerStep")
        ]


def events_of(span: SpanSummary, steps: StepsSummary) -> str:
    """Return a text such as `408 GPU events per step`, or `per call` for a span with several calls per step."""
    events = counted(round(span.gpu_events_per_call), "GPU event")
    return f"{events} per {'step' if span.calls == steps.count else 'call'}"


def in_span(name: str) -> str:
    """Return `in NAME`, or `outside all spans`."""
    return "outside all spans" if name == NO_SPAN else f"in {name}"


def waiting_ms(found: Findings, gpu: GpuSummary) -> float:
    """Return the total time in synchronizing calls, or 0 if it is at most 2 % of the GPU's window."""
    waiting = sum(sync.ms for sync in found.syncs)
    return waiting if waiting > 0.02 * gpu.window_ms else 0.0
