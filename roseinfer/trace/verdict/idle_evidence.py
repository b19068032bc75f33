"""Evidence of why a GPU idles."""

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.verdict.all_findings import MAX_EVIDENCE, Findings, events_of, in_span, waiting_ms
from roseinfer.trace.verdict.exposed_communication import exposed_evidence


def host_evidence(found: Findings, gpu: GpuSummary) -> list[str]:
    """Return two to five lines that say why the GPU idles."""
    cause = gpu.idle_by_cause
    unexplained = f" {duration(cause.unlinked_ms)} is unexplained." if cause.unlinked_ms else ""
    evidence = [
        f"The GPU is idle for {duration(gpu.idle_ms)} of {duration(gpu.window_ms)}: {duration(cause.host_late_ms)} "
        f"before the launch call (host late), {duration(cause.launch_call_ms)} during it, and "
        f"{duration(cause.device_queue_ms)} after it (device queue).{unexplained}"
    ]
    if found.is_replayed:
        evidence.append(_replay_evidence(found, gpu))
    elif gpu.small_percent >= 50 and gpu.launches:
        evidence.append(
            f"{gpu.small_percent:.1f} % of {counted(gpu.gpu_events, 'GPU event')} are shorter than 5 us "
            f"({gpu.small_kernels_percent:.1f} % of kernels; median {gpu.median_event_us:.1f} us): "
            "launching one takes longer than running it."
        )
    evidence += _span_evidence(found)
    if batch := found.batchable:
        sequence = counted(batch.pattern_launches, "launch")
        evidence.append(
            f"{batch.span} repeats a sequence of {sequence} {batch.repeats} times per step. Batching the repeats would "
            f"remove about {batch.removable_per_step} of the span's {batch.launches_per_step} launches."
        )
    if waiting_ms(found, gpu):
        count = sum(sync.count for sync in found.syncs)
        worst = found.syncs[0]
        evidence.append(
            f"{counted(count, 'synchronizing call')} took {duration(waiting_ms(found, gpu))}, "
            f"most of it in {worst.call} (called by {worst.op} {in_span(worst.span)})."
        )
    evidence += exposed_evidence(found)
    if len(evidence) < 2:
        evidence.append(
            f"{counted(gpu.gpu_events, 'GPU event')} with a median duration of {gpu.median_event_us:,.1f} us, started "
            f"by {counted(gpu.launches, 'launch')} in the trace."
        )
    return evidence[:MAX_EVIDENCE]


def _replay_evidence(found: Findings, gpu: GpuSummary) -> str:
    phase, row = found.slowest
    if row is None:
        return f"Graph replays run {gpu.replayed_percent:.0f} % of the GPU events."
    return (
        f"{phase}: graph replays run {row.replayed_percent:.0f} % of the GPU events, with {row.launches_per_step:,.1f} "
        f"launches per step. Per step, the GPU works for {duration(row.gpu_ms_per_step)} and waits "
        f"{duration(row.host_idle_ms_per_step)} for the host."
    )


def _span_evidence(found: Findings) -> list[str]:
    """Return a line about the span to optimize first, and a line about another span with many launches."""
    first = found.first_span
    worst = sorted(found.named_spans, key=lambda span: -span.idle_caused_ms)
    shown = [span for span in worst if span.gpu_events_per_call >= 20 and span.self_gpu_events and span != first]
    lines: list[str] = []
    for span in ([first] if first else []) + shown[: not found.is_replayed]:
        wall = duration(span.wall_ms / span.calls)
        if span.gpu_events:
            gpu_time = duration(span.gpu_ms / span.calls)
            work = f"{events_of(span, found.steps)}, {gpu_time} of GPU time in {wall} of wall time"
        else:
            work = f"{counted(span.calls, 'call')} of {wall} each"
        lines.append(f"{span.name}: {work}. The GPU waits {duration(span.idle_caused_ms)} for it in total.")
    return lines
