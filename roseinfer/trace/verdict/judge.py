"""The verdict on a trace: what limits the run, the evidence, and what to do."""

from typing import Literal

from roseinfer.trace.naming import counted, duration, short_name
from roseinfer.trace.summary.device_structs import CpuSummary, GpuSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, OpSummary
from roseinfer.trace.summary.trace_summary import Verdict
from roseinfer.trace.verdict.all_findings import MAX_EVIDENCE, Findings, events_of
from roseinfer.trace.verdict.cpu_verdict import cpu_evidence, judge_cpu
from roseinfer.trace.verdict.exposed_communication import exposed_advice, exposed_evidence
from roseinfer.trace.verdict.idle_advice import host_advice
from roseinfer.trace.verdict.idle_evidence import host_evidence

GPU_BOUND_PERCENT = 90.0
HOST_BOUND_PERCENT = 70.0


def kind_of(gpu: GpuSummary | None, events: int) -> Literal["host_bound", "gpu_bound", "balanced", "cpu_only", "empty"]:
    """Return the kind of verdict, from the totals of all devices.

    A GPU that is busy at least 90 % of its window is GPU-bound. A run is host-bound if the GPU is busy less than 70 %
    and at least half of its idle time passes before or during launch calls. Everything else is balanced.
    """
    if events == 0:
        return "empty"
    if gpu is None:
        return "cpu_only"
    if gpu.busy_percent >= GPU_BOUND_PERCENT:
        return "gpu_bound"
    host_ms = gpu.idle_by_cause.host_late_ms + gpu.idle_by_cause.launch_call_ms
    if gpu.busy_percent < HOST_BOUND_PERCENT and 2 * host_ms >= gpu.idle_ms:
        return "host_bound"
    return "balanced"


def judge(
    events: int, unknown: int, lost_gpu: str | None, cpu: CpuSummary, top_ops: list[OpSummary], found: Findings
) -> Verdict:
    """Return the verdict: one headline, up to five lines of evidence, and advice.

    `events` is the number of events that show work. `unknown` is the number of ignored events, which other tools wrote.
    `lost_gpu` names the GPU of a truncated file that ends before the first event of that GPU.
    """
    kind = kind_of(found.gpu, events)
    if kind == "empty":
        return _empty(unknown)
    if found.gpu is None and lost_gpu is not None:
        return _incomplete(lost_gpu, cpu_evidence(cpu, top_ops, found))
    if found.gpu is None:
        return judge_cpu(cpu, top_ops, found)
    if kind == "gpu_bound":
        return _gpu_bound(found, found.gpu, [op for op in top_ops if op.device == "gpu"])
    headline = _host_bound_headline(found, found.gpu) if kind == "host_bound" else _balanced_headline(found.gpu)
    return Verdict(kind, headline, host_evidence(found, found.gpu), host_advice(found, found.gpu))


def _balanced_headline(gpu: GpuSummary) -> str:
    cause = gpu.idle_by_cause
    parts = {
        "before the launch call (host late)": cause.host_late_ms,
        "during launch calls": cause.launch_call_ms,
        "in the device's queue": cause.device_queue_ms,
        "unexplained, because the launches are not in the trace": cause.unlinked_ms,
    }
    main = max(parts, key=lambda part: parts[part])
    name = "Balanced" if gpu.busy_percent >= HOST_BOUND_PERCENT else "Mixed"
    return f"{name}: the GPU is busy {gpu.busy_percent:.1f} % of the time; most of its idle time is {main}."


def _host_bound_headline(found: Findings, gpu: GpuSummary) -> str:
    headline = f"Host-bound: the GPU is busy {gpu.busy_percent:.1f} % of the time and waits for the host"
    if found.is_replayed:
        headline += " between graph replays"
    first = found.first_span
    if first is None:
        return f"{headline}."
    outside = sum(span.idle_caused_ms for span in found.spans if span.name == NO_SPAN)
    if found.is_replayed and outside > first.idle_caused_ms:
        return f"{headline}, mostly outside all spans ({duration(outside)})."
    if found.is_replayed:
        return f"{headline}; start with {first.name} (the GPU waits {duration(first.idle_caused_ms)} for it)."
    return f"{headline}; start with {first.name} ({events_of(first, found.steps)})."


def _empty(unknown: int) -> Verdict:
    if unknown:
        return Verdict(
            "empty",
            "Empty: the trace holds no operators, no spans and no GPU events of torch.profiler.",
            [f"The file holds {counted(unknown, 'event')} of kinds that torch.profiler does not write."],
            ["Give a trace that torch.profiler's export_chrome_trace wrote; traces of other tools cannot be read."],
        )
    return Verdict(
        "empty",
        "Empty: the trace holds no operators, no spans and no GPU events.",
        ["The recording ended before its first active step, or nothing ran while it was active."],
        [
            "Record more steps than wait + warmup, call the profiler's step() once per step, and export inside "
            "on_trace_ready: a later export writes the next cycle, which is empty."
        ],
    )


def _incomplete(gpu: str, evidence: list[str]) -> Verdict:
    """Return the verdict on a file that ends before its GPU events: advice for a CPU run would be wrong."""
    return Verdict(
        "cpu_only",
        f"Incomplete: the file breaks off, and the GPU events of {gpu} are missing; only the host's side can be read.",
        evidence,
        ["Copy the whole file, or record it again: without GPU events the trace does not say what limits the run."],
    )


def _gpu_bound(found: Findings, gpu: GpuSummary, top: list[OpSummary]) -> Verdict:
    evidence = [
        f"The GPU is busy for {duration(gpu.busy_ms)} of {duration(gpu.window_ms)} ({gpu.busy_percent:.1f} %) and idle "
        f"for {duration(gpu.idle_ms)}, in {counted(gpu.gpu_events, 'GPU event')}."
    ]
    if top:
        evidence.append(
            f"{short_name(top[0].name, 60)} takes {top[0].percent:.0f} % of GPU time in {counted(top[0].calls, 'run')}."
        )
    if gpu.small_percent >= 20:
        evidence.append(
            f"{gpu.small_percent:.0f} % of GPU events are shorter than 5 us, but the GPU does not wait for launches."
        )
    if gpu.median_launch_to_start_us >= 1000:
        ahead = duration(gpu.median_launch_to_start_us / 1000)
        evidence.append(f"The host runs ahead: launched work waits {ahead} in the queue (median), which costs nothing.")
    evidence += exposed_evidence(found)
    for phase, row in list(found.steps.phases.items())[:2]:
        evidence.append(
            f"{phase}: {duration(row.gpu_ms_per_step)} of GPU work per step, in "
            f"{counted(round(row.gpu_events_per_step), 'event')}."
        )
    advice = [
        "Nothing to fix on the host. To go faster, reduce the GPU's work: lower precision, faster kernels, or less "
        "computation.",
        *exposed_advice(found),
    ]
    headline = f"Healthy, GPU-bound: the GPU is busy {gpu.busy_percent:.1f} % of the time; nothing to fix on the host."
    return Verdict("gpu_bound", headline, evidence[:MAX_EVIDENCE], advice)
