"""Rules for runs whose device is the CPU: time outside operators, small operators, the largest operator."""

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.facts.custom_operators import is_custom
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding, OpSummary, Place, SpanSummary
from roseinfer.trace.verdict.cpu_operators import (
    ATTENTION,
    COPIES,
    QUANTIZED,
    calls_and_mean,
    either,
    is_any,
    is_product,
)
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import (
    LARGE_PERCENT,
    MANY_OPERATORS,
    OPERATORS_PERCENT,
    SHOWN_PERCENT,
    SMALL_OPERATOR_US,
)


def cpu_ops(judged: JudgedTrace) -> list[OpSummary]:
    """Return the operators that compute, the longest self time first."""
    ops = [op for op in judged.top_ops if op.device == "cpu" and op.calls and not is_collective(op.name)]
    return sorted(ops, key=lambda op: -op.self_ms)


def operators_percent(judged: JudgedTrace) -> float:
    """Return the share of the wall time in operators."""
    return 100 * judged.total.compute_ms / judged.total.wall_ms if judged.total.wall_ms else 0.0


def collectives_percent(judged: JudgedTrace) -> float:
    """Return the share of the wall time in collectives beside no operator; 0 if it is too small to be named."""
    total = judged.total
    share = 100 * total.exposed_communication_ms / total.wall_ms if total.wall_ms else 0.0
    return share if share >= SHOWN_PERCENT else 0.0


def heaviest_span(judged: JudgedTrace) -> SpanSummary | None:
    """Return the span with most time outside operators and outside inner spans."""
    named = [(outside_ms(judged, span), span) for span in judged.spans if span.name != NO_SPAN]
    return max(((ms, span) for ms, span in named if ms > 0), key=lambda one: one[0], default=(0.0, None))[1]


def outside_ms(judged: JudgedTrace, span: SpanSummary) -> float:
    """Return the span's self time outside operators, and outside collectives, which run on threads of their own."""
    if is_collective(span.name):
        return 0.0
    outside = max(0.0, span.self_wall_ms - span.self_op_ms)
    if not judged.total.exposed_communication_ms:
        return outside
    return min(outside, sum(place.ms for place in judged.places("python") if place.span == span.name))


def find_time_outside_operators(judged: JudgedTrace) -> list[Finding]:
    """Return a finding if much of the time is outside operators, named by the function or span that takes most."""
    maker = FindingMaker(judged, "outside_operators", "cpu")
    outside = judged.total.host_ms.python
    is_rare = operators_percent(judged) >= OPERATORS_PERCENT and not judged.is_own
    if is_rare or not maker.is_shown(outside) or 100 * outside < LARGE_PERCENT * judged.total.wall_ms:
        return []
    functions = [place for place in judged.places("python") if place.file]
    heavy = heaviest_span(judged)
    share = 100 * outside / judged.total.wall_ms
    if functions:
        first = functions[0]
        sentence = (
            f"Of {duration(outside)} outside operators ({share:.0f} %), {duration(first.ms)} are in {first.file}."
        )
        where = Place(span=None if first.span == NO_SPAN else first.span, file=first.file)
        return [maker.make(outside, where, sentence, f"Most time is outside operators: speed up {first.file} first.")]
    name = heavy.name if heavy else "the program"
    mine = outside_ms(judged, heavy) if heavy else outside
    sentence = f"{duration(outside)} are outside operators ({share:.0f} %), {duration(mine)} of it in {name}."
    advice = f"Most time of {name} is outside operators ({duration(mine)}): {_outside_remedy(judged, heavy)}."
    return [maker.make(outside, Place(span=heavy.name if heavy else None), sentence, advice)]


def _outside_remedy(judged: JudgedTrace, heavy: SpanSummary | None) -> str:
    if heavy is None or heavy.self_op_ms <= 0.1 * heavy.self_wall_ms:
        if judged.has_stacks:
            return "--group-by stack shows which Python functions take it"
        return "record again with with_stack=True to see which Python functions take it"
    if 2 * heavy.self_custom_op_ms >= heavy.self_op_ms:
        return "batch its operators, or make them larger"  # torch.compile cannot see inside custom operators
    return "batch its operators, or compile its code"


def find_small_operators(judged: JudgedTrace) -> list[Finding]:
    """Return a finding if most operators are so small that calling them is much of their cost."""
    ops = cpu_ops(judged)
    maker = FindingMaker(judged, "small_operators", "cpu")
    if not ops:
        return []
    calls, mean_us = calls_and_mean(ops)
    small_ms = sum(op.self_ms for op in ops if 1000 * op.self_ms / op.calls < SMALL_OPERATOR_US)
    if calls < MANY_OPERATORS or mean_us >= SMALL_OPERATOR_US or not maker.is_shown(small_ms):
        return []
    steps = judged.steps.rank_steps
    per_step = f" ({calls / steps:,.0f} per step)" if steps else ""
    helps = ["a larger batch"] * (not judged.is_compute_bound and not judged.is_training) + ["fused operators"]
    if sum(op.percent for op in ops if is_custom(op.name)) < 50:
        helps.append("--compile" if judged.is_own else "torch.compile")
    most = max(ops, key=lambda op: op.calls)
    return [
        maker.make(
            small_ms,
            Place(operator=most.name),
            f"{counted(calls, 'operator call')}{per_step} with a mean self time of {mean_us:.1f} us; {most.name} is "
            f"called most, {most.calls:,} times.",
            f"Call fewer, larger operators{per_step}, {most.name} first: at {mean_us:.1f} us each, calling them is "
            f"much of their cost. Use {either(helps)}.",
        )
    ]


def find_largest_operator(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the operator with most self time, if it takes at least 20 % of the wall time."""
    ops = cpu_ops(judged)
    maker = FindingMaker(judged, "largest_operator", "cpu")
    if not ops:
        return []
    first = ops[0]
    share = operators_percent(judged) * first.percent / 100
    outside = judged.total.host_ms.python
    if share < LARGE_PERCENT or outside > judged.total.compute_ms:
        return []
    return [
        maker.make(
            min(first.self_ms, judged.total.compute_ms),
            Place(operator=first.name),
            f"{first.name} takes {duration(first.self_ms)} in {counted(first.calls, 'call')}, {first.percent:.0f} % of "
            "operator time.",
            f"Speed up {first.name}: {_remedy(judged, ops)}.",
        )
    ]


def _remedy(judged: JudgedTrace, ops: list[OpSummary]) -> str:
    """Return advice to make the largest operator, `ops[0]`, cheaper; nothing that the trace does not support."""
    first = ops[0]
    if is_any(first, ATTENTION):
        smaller = "use a smaller dtype"
    elif is_product(first):
        known = judged.is_training or judged.is_quantized or any(is_any(op, QUANTIZED) for op in ops)
        smaller = (
            "use a smaller dtype" if judged.is_training else "" if known else "use a smaller dtype or quantized weights"
        )
    elif is_any(first, COPIES):
        return "move less memory, and write in place instead of copying and concatenating"
    else:
        return "call it less often, or fuse it with its neighbors"
    batch = "" if judged.is_compute_bound or judged.is_training else "use a larger batch"
    if smaller and batch:
        return f"{smaller}, or a larger batch"
    return smaller or batch or "use a faster kernel, or compute less"
