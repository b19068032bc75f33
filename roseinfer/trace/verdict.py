"""The verdict: what limits the run, why that is so, and what to do about it."""

from roseinfer.trace.naming import short_name
from roseinfer.trace.summary import (
    NO_SPAN,
    GapGroup,
    GpuSummary,
    OpSummary,
    Repetition,
    SpanSummary,
    StepsSummary,
    Sync,
    Verdict,
    WhatIf,
)

GPU_BOUND_PERCENT = 90.0
HOST_BOUND_PERCENT = 70.0
_MAX_EVIDENCE = 5


def kind_of(gpu: GpuSummary | None, events: int) -> str:
    """DESIGN's rule, from the totals of all devices."""
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
    events: int,
    gpu: GpuSummary | None,
    steps: StepsSummary,
    spans: list[SpanSummary],
    gaps: list[GapGroup],
    repetition: list[Repetition],
    syncs: list[Sync],
    what_if: list[WhatIf],
    top_ops: list[OpSummary],
) -> Verdict:
    """One headline, two to five lines of evidence, and advice that fits them."""
    kind = kind_of(gpu, events)
    if gpu is None:
        return _empty() if kind == "empty" else _cpu_only(spans, top_ops, repetition)
    top = sorted((op for op in top_ops if op.device == "gpu"), key=lambda op: -op.self_ms)
    if kind == "gpu_bound":
        return _gpu_bound(gpu, top, steps)
    guilty = _guilty(spans, repetition)
    evidence, advice = _host_evidence(gpu, steps, spans, guilty, gaps, repetition, syncs, what_if)
    if kind == "host_bound":
        headline = f"Host-bound: the GPU is busy {gpu.busy_percent:.1f} % of the time and waits for the host."
        if guilty:
            headline = f"{headline[:-1]}; begin with {guilty.name} ({_events(guilty, steps)})."
        return Verdict("host_bound", headline, evidence, advice)
    cause = gpu.idle_by_cause
    parts = {
        "the host being late": cause.host_late_ms,
        "launch calls": cause.launch_call_ms,
        "the device's own queue": cause.device_queue_ms,
        "work whose launch is not in the trace": cause.unlinked_ms,
    }
    main = max(parts, key=lambda part: parts[part])
    headline = f"Balanced: the GPU is busy {gpu.busy_percent:.1f} % of the time; most of the rest is {main}."
    return Verdict("balanced", headline, evidence, advice)


def _empty() -> Verdict:
    return Verdict(
        "empty",
        "Empty: the trace holds no events.",
        ["The recording ended before its first active step, or nothing ran while it was active."],
        ["Record more steps than wait + warmup, and step the profiler once per scheduler step."],
    )


def _gpu_bound(gpu: GpuSummary, top: list[OpSummary], steps: StepsSummary) -> Verdict:
    evidence = [
        f"Busy {gpu.busy_ms:,.1f} of {gpu.window_ms:,.1f} ms ({gpu.busy_percent:.1f} %); "
        f"{gpu.idle_ms:,.2f} ms idle in {gpu.gpu_events:,} GPU events."
    ]
    if top:
        evidence.append(
            f"{short_name(top[0].name, 60)} takes {top[0].percent:.0f} % of GPU time in {top[0].calls:,} runs."
        )
    if gpu.small_percent >= 20:
        evidence.append(f"{gpu.small_percent:.0f} % of GPU events are under 5 us, but the GPU does not wait for them.")
    for phase, row in list(steps.phases.items())[:2]:
        evidence.append(
            f"{phase}: {row.gpu_ms_per_step:.2f} ms of GPU work a step in {row.gpu_events_per_step:,.0f} events."
        )
    advice = [
        "Nothing to fix on the host. To go faster, make the GPU's work smaller: lower precision, better kernels, "
        "less of it."
    ]
    headline = f"Healthy, GPU-bound: the GPU is busy {gpu.busy_percent:.1f} % of the time; nothing to fix on the host."
    return Verdict("gpu_bound", headline, evidence[:_MAX_EVIDENCE], advice)


def _guilty(spans: list[SpanSummary], repetition: list[Repetition]) -> SpanSummary | None:
    """The span to begin with: of those that hold up the GPU, one that repeats what could be batched, else the worst."""
    idle = sum(span.idle_caused_ms for span in spans)
    heavy = [span for span in _named(spans) if span.idle_caused_ms >= 0.1 * idle and span.self_gpu_events]
    batchable = {row.span: row.removable_per_step for row in repetition if row.remedy == "batch"}
    return max(heavy, key=lambda span: (batchable.get(span.name, 0), span.idle_caused_ms), default=None)


def _named(spans: list[SpanSummary]) -> list[SpanSummary]:
    return [span for span in spans if span.calls and span.name != NO_SPAN and not span.name.startswith("ProfilerStep")]


def _host_evidence(
    gpu: GpuSummary,
    steps: StepsSummary,
    spans: list[SpanSummary],
    guilty: SpanSummary | None,
    gaps: list[GapGroup],
    repetition: list[Repetition],
    syncs: list[Sync],
    what_if: list[WhatIf],
) -> tuple[list[str], list[str]]:
    cause = gpu.idle_by_cause
    evidence = [
        f"Idle {gpu.idle_ms:,.1f} of {gpu.window_ms:,.1f} ms: {cause.host_late_ms:,.1f} ms host late, "
        f"{cause.launch_call_ms:,.1f} ms in launch calls, {cause.device_queue_ms:,.1f} ms in the device's queue"
        + (f", {cause.unlinked_ms:,.1f} ms unexplained." if cause.unlinked_ms else ".")
    ]
    advice: list[str] = []
    if gpu.small_percent >= 50:
        evidence.append(
            f"{gpu.small_percent:.1f} % of {gpu.gpu_events:,} GPU events are under 5 us "
            f"(median {gpu.median_event_us:.1f} us): launching one takes longer than running it."
        )
    evidence += _span_evidence(spans, guilty, steps)
    batch = next((row for row in repetition if row.remedy == "batch"), None)
    if batch:
        evidence.append(
            f"{batch.span} repeats a sequence of {batch.pattern_launches} launches {batch.repeats} times a step; "
            f"batching it would remove about {batch.removable_per_step} of its {batch.launches_per_step} launches."
        )
        advice.append(
            f"Batch what {batch.span} repeats into one kernel: about {batch.removable_per_step} launches a step less."
        )
    waiting = sum(sync.ms for sync in syncs)
    if syncs and waiting > 0.02 * gpu.window_ms:
        count = sum(sync.count for sync in syncs)
        evidence.append(f"{count} synchronizing calls take {waiting:.1f} ms, most in {syncs[0].op} ({syncs[0].span}).")
        advice.append(f"Remove the waits in {syncs[0].span}: {syncs[0].note}.")
    per_step = max((row.gpu_events_per_step for row in steps.phases.values()), default=0.0)
    if per_step >= 50 and cause.host_late_ms + cause.launch_call_ms > 0.3 * gpu.window_ms:
        advice.append(f"Capture the step in a CUDA graph: it launches {per_step:,.0f} GPU events one by one.")
    python = sum(gap.ms for gap in gaps if gap.doing == "python")
    if python > 0.3 * max(cause.host_late_ms, 0.001):
        advice.append(f"Plan ahead of the GPU: plain Python between operators costs it {python:,.1f} ms.")
    if what_if:
        best = what_if[0]
        advice.append(f"Bound: {best.change} saves at most {best.saves_ms:,.1f} ms ({best.speedup:.1f}x).")
    return evidence[:_MAX_EVIDENCE], advice


def _events(span: SpanSummary, steps: StepsSummary) -> str:
    """`408 GPU events a step`, or a call where a step makes several."""
    return f"{span.gpu_events_per_call:,.0f} GPU events a {'step' if span.calls == steps.count else 'call'}"


def _span_evidence(spans: list[SpanSummary], first: SpanSummary | None, steps: StepsSummary) -> list[str]:
    worst = sorted(_named(spans), key=lambda span: -span.idle_caused_ms)
    shown = [span for span in worst if span.gpu_events_per_call >= 20 and span.self_gpu_events and span != first]
    return [
        f"{span.name}: {_events(span, steps)} for {span.gpu_ms / span.calls:.2f} ms of GPU time "
        f"in {span.wall_ms / span.calls:.1f} ms; it holds up the GPU for {span.idle_caused_ms:,.1f} ms in all."
        for span in ([first] if first else []) + shown[:1]
    ]


def _cpu_only(spans: list[SpanSummary], top_ops: list[OpSummary], repetition: list[Repetition]) -> Verdict:
    evidence: list[str] = []
    advice: list[str] = []
    ops = sorted(top_ops, key=lambda op: -op.self_ms)
    if ops:
        evidence.append(f"{ops[0].name} takes {ops[0].percent:.0f} % of operator time in {ops[0].calls:,} calls.")
    heavy = max((span for span in spans if span.name != NO_SPAN), key=lambda span: span.self_wall_ms, default=None)
    if heavy and heavy.self_wall_ms > 0:
        python = max(0.0, heavy.self_wall_ms - heavy.self_op_ms)
        evidence.append(
            f"{heavy.name} takes {heavy.self_wall_ms:,.1f} ms by itself in {heavy.calls:,} calls: "
            f"{heavy.self_op_ms:,.1f} ms in operators, {python:,.1f} ms in plain Python."
        )
        if python > heavy.self_op_ms:
            advice.append(f"Python is the larger part of {heavy.name}: batch its operators.")
    if repetition:
        row = repetition[0]
        evidence.append(
            f"{row.span} repeats a sequence of {row.pattern_launches} operators {row.repeats} times a step."
        )
    if not advice and ops:
        advice.append(f"Start with {ops[0].name}: fewer or larger calls, more threads, or a smaller dtype.")
    headline = "CPU only: the trace holds no GPU work"
    headline += f"; {ops[0].name} is the largest operator ({ops[0].percent:.0f} % of operator time)." if ops else "."
    return Verdict("cpu_only", headline, evidence, advice)
