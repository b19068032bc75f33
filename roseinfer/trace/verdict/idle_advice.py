"""What to do about an idle GPU, as lines of advice."""

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.verdict.all_findings import Findings, in_span, waiting_ms
from roseinfer.trace.verdict.exposed_communication import exposed_advice

_MANY_LAUNCHES = 20
"""A step of fewer launches gains little from being one graph."""
_MANY_EVENTS = 50


def host_advice(found: Findings, gpu: GpuSummary) -> list[str]:
    """What to do about it, the most promising first; the last line is the bound on all of it."""
    advice: list[str] = []
    host_ms = gpu.idle_by_cause.host_late_ms + gpu.idle_by_cause.launch_call_ms
    if batch := found.batchable:
        fewer = counted(batch.removable_per_step, "launch")
        advice.append(f"Batch what {batch.span} repeats into one kernel: about {fewer} a step less.")
    if waiting_ms(found, gpu):
        worst = found.syncs[0]
        if worst.op == "Python" and found.is_replayed:
            advice.append(f"Read results one step late: {worst.call} {in_span(worst.span)} waits {duration(worst.ms)}.")
        else:
            advice.append(f"Remove the waits {in_span(worst.span)} ({worst.op}): {worst.note}.")
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
    blame = f"The GPU waits between graph replays, most for {doing} {in_span(worst.span)} ({duration(worst.ms)})"
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
