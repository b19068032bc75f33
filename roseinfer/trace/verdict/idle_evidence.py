"""Why a GPU idles, as lines of evidence."""

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.verdict.all_findings import MAX_EVIDENCE, Findings, events_of, in_span, waiting_ms
from roseinfer.trace.verdict.exposed_communication import exposed_evidence


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
    if batch := found.batchable:
        sequence = counted(batch.pattern_launches, "launch")
        evidence.append(
            f"{batch.span} repeats a sequence of {sequence} {batch.repeats} times a step; "
            f"batching it would remove about {batch.removable_per_step} of its {batch.launches_per_step} launches."
        )
    if waiting_ms(found, gpu):
        count = sum(sync.count for sync in found.syncs)
        worst = found.syncs[0]
        evidence.append(
            f"{counted(count, 'synchronizing call')} took {duration(waiting_ms(found, gpu))}, "
            f"most in {worst.call} ({worst.op}, {in_span(worst.span)})."
        )
    evidence += exposed_evidence(found)
    if len(evidence) < 2:
        evidence.append(
            f"{counted(gpu.gpu_events, 'GPU event')}, the median of {gpu.median_event_us:,.1f} us, in "
            f"{counted(gpu.launches, 'launch')}."
        )
    return evidence[:MAX_EVIDENCE]


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
