"""Advice for a GPU that idles."""

from roseinfer.trace.naming import duration
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.verdict.all_findings import Findings, in_span, waiting_ms
from roseinfer.trace.verdict.exposed_communication import exposed_advice

_MANY_LAUNCHES = 20
"""Launches per step of graph replays; with fewer, one graph for the whole step gains little."""
_MANY_EVENTS = 50
"""GPU events per step launched one by one; with fewer, a CUDA graph gains little."""


def host_advice(found: Findings, gpu: GpuSummary) -> list[str]:
    """Return lines of advice, the most promising first; the last line is an upper bound on the gain."""
    advice: list[str] = []
    host_ms = gpu.idle_by_cause.host_late_ms + gpu.idle_by_cause.launch_call_ms
    if batch := found.batchable:
        fewer = f"{batch.removable_per_step:,} fewer launches per step"
        advice.append(f"Batch the sequence that {batch.span} repeats into one kernel: about {fewer}.")
    if waiting_ms(found, gpu):
        worst = found.syncs[0]
        if worst.op == "Python" and found.is_replayed:
            where = f"in {worst.call}, {in_span(worst.span)}"
            advice.append(f"Read results one step late: the host waits {duration(worst.ms)} for them {where}.")
        else:
            where = f"{in_span(worst.span)} ({worst.call}, called by {worst.op})"
            advice.append(f"Remove the synchronizing calls {where}: {worst.note}.")
    if host_ms > 0.3 * gpu.window_ms:
        advice += _launch_advice(found, gpu)
    python = sum(gap.ms for gap in found.gaps if gap.doing == "python")
    if python > 0.3 * gpu.idle_by_cause.host_late_ms and not found.is_replayed:
        advice.append(
            "Overlap the host's work with the GPU's: the GPU waits "
            f"{duration(python)} for plain Python between operators."
        )
    advice += _queue_advice(gpu)
    advice += exposed_advice(found)
    if found.what_if:
        best = found.what_if[0]
        advice.append(f"Upper bound: {best.change} saves at most {duration(best.saves_ms)} ({best.speedup:.2f}x).")
    return advice


def _launch_advice(found: Findings, gpu: GpuSummary) -> list[str]:
    """Return advice to capture a CUDA graph or, if graphs run most events, to reduce the work between replays."""
    phase, row = found.slowest
    step = f"the {phase} step" if phase not in ("", "step") else "the step"
    if found.is_replayed:
        if row and row.launches_per_step >= _MANY_LAUNCHES:
            return [
                f"Capture {step} in one graph: graphs run {row.replayed_percent:.0f} % of its GPU events, but it still "
                f"makes {row.launches_per_step:,.0f} launches."
            ]
        return [_between_replays(found)]
    if row is None:
        eager = gpu.gpu_events * (1 - gpu.replayed_percent / 100)
        text = f"Capture the repeated work in a CUDA graph: {eager:,.0f} GPU events are launched one by one."
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
    blame = f"The GPU waits between graph replays, longest for {doing} {in_span(worst.span)} ({duration(worst.ms)})"
    if worst.cause == "launch_call":
        return f"{blame}: launch several steps at once."
    if worst.doing == "sync":
        return f"{blame}: read results one step late, so that the host does not wait, or launch several steps at once."
    return f"{blame}: overlap this work with the previous step on the GPU, or launch several steps at once."


def _queue_advice(gpu: GpuSummary) -> list[str]:
    """Return the advice for idle time that the host did not cause, if this is most of the idle time."""
    cause = gpu.idle_by_cause
    if cause.unlinked_ms > 0.5 * gpu.idle_ms:
        return [
            "Record CPU activity too, starting before the first launch: without launches the gaps cannot be explained."
        ]
    if cause.device_queue_ms <= 0.5 * gpu.idle_ms:
        return []
    if gpu.replayed_percent >= 50:
        apart = 1000 * cause.device_queue_ms / gpu.gpu_events
        return [
            f"Fuse kernels, or let them start early (programmatic dependent launch): inside replays the GPU idles "
            f"{duration(cause.device_queue_ms)}, {apart:.1f} us per event."
        ]
    return [
        "Look for waits between streams, for copies, and for chains of tiny kernels: GPU events that were launched in "
        f"time start {duration(cause.device_queue_ms)} late in total."
    ]
