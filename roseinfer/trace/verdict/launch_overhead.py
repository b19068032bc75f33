"""Rule: the host takes longer to launch GPU events one by one than the device to run them."""

from collections import defaultdict

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding, Place, SpanSummary
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step
from roseinfer.trace.verdict.judged_trace import LAUNCH_CAUSES, JudgedTrace, events_of, in_span, launching_ms
from roseinfer.trace.verdict.thresholds import MANY_EVENTS, MANY_LAUNCHES, SPAN_PERCENT


def find_launch_overhead(judged: JudgedTrace) -> list[Finding]:
    """Return findings about the time between launches: a sequence to batch first, then all launches of the step."""
    gpu = judged.gpu
    if gpu is None or not gpu.launches:
        return []
    repeated, one_by_one = _repeated(judged), _one_by_one(judged, gpu)
    # A sequence that can be batched away comes first, unless its span causes little of the time.
    is_first = sum(finding.saves_ms for finding in repeated) >= SPAN_PERCENT / 100 * judged.launch_ms
    return [*repeated, *one_by_one] if is_first else [*one_by_one, *repeated]


def _repeated(judged: JudgedTrace) -> list[Finding]:
    batch = judged.batchable
    if batch is None:
        return []
    maker = FindingMaker(judged, "repeated_launches", "host")
    waits_ms = sum(launching_ms(place) for place in judged.places(*LAUNCH_CAUSES) if place.span == batch.span)
    if not maker.is_shown(waits_ms):
        return []
    sequence = counted(batch.pattern_launches, "launch")
    fewer = f"about {batch.removable_per_step:,} fewer launches per step"
    how = " (the fused or foreach form of the optimizer)" if batch.span.startswith("Optimizer.") else ""
    finding = maker.make(
        waits_ms * batch.removable_per_step / batch.launches_per_step,
        Place(span=None if batch.span == NO_SPAN else batch.span),
        f"{batch.span} repeats a sequence of {sequence} {batch.repeats:,} times per step, "
        f"{batch.removable_per_step:,} of its {batch.launches_per_step:,} launches more than needed. The "
        f"{judged.device} waits {duration(waits_ms)} between them in total.",
        f"Batch the sequence that {batch.span} repeats into one kernel{how}: {fewer}.",
    )
    return [finding]


def _one_by_one(judged: JudgedTrace, gpu: GpuSummary) -> list[Finding]:
    maker = FindingMaker(judged, "launch_overhead", "host")
    total_ms = judged.launch_ms
    if not maker.is_shown(total_ms):
        return []
    first = judged.first_span
    small = (
        f" {gpu.small_percent:.1f} % of {counted(gpu.gpu_events, f'{judged.device} event')} are shorter than 5 us: "
        "launching one takes longer than running it."
        if gpu.small_percent >= 50 and not judged.is_replayed
        else ""
    )
    longest = max(judged.places(*LAUNCH_CAUSES), key=launching_ms)
    operator, operator_ms = _longest_operator(judged) if first is None else ("", 0.0)
    where = _work_of(judged, *first) if first else f"longest {in_span(longest.span)}"
    where += f", {duration(operator_ms)} in {operator}" if operator_ms >= SPAN_PERCENT / 100 * total_ms else ""
    span = first[0].name if first else None if longest.span == NO_SPAN else longest.span
    return [
        maker.make(
            total_ms,
            Place(span=span, operator=operator if 2 * operator_ms >= total_ms else None),
            f"The {judged.device} waits {per_step(judged, total_ms)} from one launch to the next; {where}.{small}",
            _advice(judged, gpu),
        )
    ]


def _longest_operator(judged: JudgedTrace) -> tuple[str, float]:
    """Return (operator in which the device waits longest for the next launch, this time in ms)."""
    waits: defaultdict[str, float] = defaultdict(float)
    for place in judged.places("operators", "launch_calls"):
        name = place.name if place.cause == "operators" else place.operator
        if name:
            waits[name] += launching_ms(place)
    return max(waits.items(), key=lambda item: item[1], default=("", 0.0))


def _work_of(judged: JudgedTrace, span: SpanSummary, idle_ms: float) -> str:
    wall, gpu_time = duration(span.wall_ms / span.calls), duration(span.gpu_ms / span.calls)
    return (
        f"{duration(idle_ms)} of it in {span.name}, with {events_of(judged, span)}. A call takes {wall}, for "
        f"{gpu_time} of {judged.device} work"
    )


def _advice(judged: JudgedTrace, gpu: GpuSummary) -> str:
    phase, row = judged.slowest
    step = f"the {phase} step" if phase not in ("", "step") else "the step"
    graph = judged.graph
    if judged.is_replayed and row and row.launches_per_step >= MANY_LAUNCHES:
        return (
            f"Capture {step} in one graph: graphs run {row.replayed_percent:.0f} % of its GPU events, but it still "
            f"makes {row.launches_per_step:,.0f} launches."
        )
    if judged.is_replayed:
        return f"Launch several steps at once: the {judged.device} waits for the host between graph replays."
    if row is None:
        eager = gpu.gpu_events * (1 - gpu.replayed_percent / 100)
        what, whose = "the repeated work", f"{eager:,.0f} {judged.device} events are launched one by one"
    else:
        eager = row.gpu_events_per_step * (1 - row.replayed_percent / 100)
        what, whose = step, f"it launches {eager:,.0f} {judged.device} events one by one"
    if eager < MANY_EVENTS:
        return f"Launch earlier, or more work at once: {whose}, and waits for the next launch in between."
    if graph is None:
        return f"Launch fewer, larger kernels, by torch.compile, fused operators or a larger batch, in {what}: {whose}."
    if judged.is_training:
        return (
            f"Compile {what} (torch.compile), use fused optimizers, or capture it in a {graph}: {whose}. A larger "
            "batch per device hides launches too."
        )
    return f"Capture {what} in a {graph}: {whose}."
