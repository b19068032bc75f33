"""From a trace on disk to its summary."""

from pathlib import Path

import numpy as np

from roseinfer.trace.columns import Trace
from roseinfer.trace.intervals import union_length
from roseinfer.trace.ops import summarize_ops
from roseinfer.trace.reader import read_trace
from roseinfer.trace.source import Progress
from roseinfer.trace.spans import span_table, summarize_spans
from roseinfer.trace.steps import Steps, find_steps
from roseinfer.trace.summary import (
    CpuSummary,
    PhaseSummary,
    StepsSummary,
    Summary,
    TraceInfo,
    to_ms,
    to_percent,
)
from roseinfer.trace.trust import reading_trust


def summarize_trace(path: Path, *, on_progress: Progress | None = None) -> Summary:
    """The summary of one Chrome trace, `.json` or `.json.gz`.

    `on_progress` is called with (bytes read, bytes in all) of the file. Raises TraceError for what is no trace.
    """
    return summarize_columns(read_trace(Path(path), on_progress=on_progress))


def summarize_columns(trace: Trace) -> Summary:
    """The summary of a trace in memory."""
    return Summary(
        trace=TraceInfo(
            path=trace.path,
            events=trace.counts.events,
            size_bytes=trace.size_bytes,
            ranks=_ranks(trace),
        ),
        cpu=_cpu(trace),
        steps=_steps(find_steps(trace)),
        spans=summarize_spans(span_table(trace)),
        top_ops=summarize_ops(trace),
        trust=reading_trust(trace),
    )


def _ranks(trace: Trace) -> list[int]:
    rank = trace.metadata.distributedInfo.get("rank", 0)
    return [rank if isinstance(rank, int) else 0]


def _cpu(trace: Trace) -> CpuSummary:
    tables = [table for table in (trace.ops, trace.spans, trace.calls) if len(table)]
    if not tables:
        return CpuSummary(window_ms=0.0, top_level_busy_percent=0.0)
    window_ns = max(int(table.end_ns.max()) for table in tables) - min(int(table.start_ns.min()) for table in tables)
    busy_ns = union_length(trace.ops.start_ns, trace.ops.end_ns)
    return CpuSummary(window_ms=to_ms(window_ns), top_level_busy_percent=to_percent(busy_ns, window_ns))


def _steps(steps: Steps) -> StepsSummary:
    durations = steps.end_ns - steps.start_ns
    phases: dict[str, PhaseSummary] = {}
    for phase in sorted({label.phase for label in steps.labels}):
        at = [index for index, label in enumerate(steps.labels) if label.phase == phase]
        tokens = [steps.labels[index].tokens for index in at]
        known = [count for count in tokens if count is not None]
        phases[phase] = PhaseSummary(
            count=len(at),
            median_ms=to_ms(np.median(durations[at])),
            p90_ms=to_ms(np.percentile(durations[at], 90)),
            tokens_per_step=round(sum(known) / len(known), 3) if len(known) == len(tokens) else None,
        )
    return StepsSummary(source=steps.source, count=len(steps), phases=phases)
