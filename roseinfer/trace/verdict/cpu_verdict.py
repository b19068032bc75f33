"""The verdict on a trace without GPU work: which operators, or which spans of Python, take the time."""

from roseinfer.trace.facts.custom_operators import is_custom
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.device_structs import CpuSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, OpSummary, SpanSummary
from roseinfer.trace.summary.trace_summary import Verdict
from roseinfer.trace.verdict.all_findings import MAX_EVIDENCE, Findings

_SMALL_OP_US = 10.0
"""Mean self time of operators in us below which calling them is much of their cost."""
_MANY_OPS = 500
_PYTHON_BOUND_PERCENT = 60.0
"""Share of the window in operators below which time outside them is the first thing to change."""
_LARGE_PERCENT = 20.0
"""Share of the window that an operator must take to be the first thing to change."""
_ATTENTION = ("attention",)
_PRODUCTS = ("mm", "matmul", "linear", "conv", "int8pack", "int4pack")
_QUANTIZED = ("int4", "int8", "float8", "fp8", "quant")
_COPIES = ("copy_", "cat", "clone", "contiguous", "index", "stack", "fill_", "zero_")


def judge_cpu(cpu: CpuSummary, top_ops: list[OpSummary], found: Findings) -> Verdict:
    """Return the verdict on a run without GPU work."""
    ops = sorted(top_ops, key=lambda op: -op.self_ms)
    busy = cpu.top_level_busy_percent
    if ops:
        headline = (
            f"CPU only: operators run {busy:.0f} % of the time; the largest is {ops[0].name} "
            f"({ops[0].percent:.0f} % of operator time)."
        )
    else:
        headline = "CPU only: the trace holds no GPU work and no operators."
    return Verdict("cpu_only", headline, cpu_evidence(cpu, ops, found), _advice(busy, ops, found))


def cpu_evidence(cpu: CpuSummary, top_ops: list[OpSummary], found: Findings) -> list[str]:
    """Return one to five lines that say what the host did."""
    ops = sorted(top_ops, key=lambda op: -op.self_ms)
    heavy = _heaviest(found)
    other = cpu.window_ms * (1 - cpu.top_level_busy_percent / 100)
    lines = [
        f"Of {duration(cpu.window_ms)}, {duration(cpu.window_ms - other)} are in operators; {duration(other)} are "
        "plain Python, waits, or libraries that the profiler does not see."
    ]
    if ops:
        calls, mean_us = _calls_and_mean(ops)
        lines.append(f"{counted(calls, 'operator call')} with a mean self time of {mean_us:,.1f} us.")
        attention = _percent(ops, _ATTENTION)
        products = _percent([op for op in ops if not _is(op, _ATTENTION)], _PRODUCTS)
        if products:
            also = f", attention {attention:.0f} %" if attention else ""
            lines.append(f"Matrix products take {products:.0f} % of operator time{also}.")
        lines.append(
            f"{ops[0].name} takes {duration(ops[0].self_ms)} in {counted(ops[0].calls, 'call')}, "
            f"{ops[0].percent:.0f} % of operator time."
        )
    if heavy:
        lines.append(
            f"{heavy.name} has a self time of {duration(heavy.self_wall_ms)} in {counted(heavy.calls, 'call')}: "
            f"{duration(heavy.self_op_ms)} in operators, {duration(_python_ms(heavy))} outside them."
        )
    if found.repetition:
        row = found.repetition[0]
        lines.append(
            f"{row.span} repeats a sequence of {counted(row.pattern_launches, 'operator')} {row.repeats} times "
            "per step."
        )
    return lines[:MAX_EVIDENCE]


def _heaviest(found: Findings) -> SpanSummary | None:
    named = [span for span in found.spans if span.name != NO_SPAN and span.self_wall_ms > 0]
    return max(named, key=lambda span: span.self_wall_ms, default=None)


def _advice(busy: float, ops: list[OpSummary], found: Findings) -> list[str]:
    heavy = _heaviest(found)
    advice: list[str] = []
    if heavy and "DataLoader" in heavy.name and _python_ms(heavy) > heavy.self_op_ms:
        advice.append(
            "The loop waits for its data: use more DataLoader workers, more prefetching, or cheaper transforms."
        )
    elif heavy and busy < _PYTHON_BOUND_PERCENT and _python_ms(heavy) > heavy.self_op_ms:
        if heavy.self_op_ms <= 0.1 * heavy.self_wall_ms:
            what = "record again with with_stack=True to see which Python functions take it"
        elif 2 * heavy.self_custom_op_ms >= heavy.self_op_ms:
            what = "batch its operators, or make them larger"  # torch.compile cannot see inside custom operators
        else:
            what = "batch its operators, or compile its code"
        advice.append(f"Most time of {heavy.name} is outside operators ({duration(_python_ms(heavy))}): {what}.")
    if not ops:
        return advice or ["Record operators too (ProfilerActivity.CPU), or add spans around the code to explain."]
    calls, mean_us = _calls_and_mean(ops)
    if calls >= _MANY_OPS and mean_us < _SMALL_OP_US:
        per_step = f" ({calls / found.steps.count:,.0f} per step)" if found.steps.count else ""
        helps = ["a larger batch"] * (not found.is_compute_bound) + ["fused operators"]
        if sum(op.percent for op in ops if is_custom(op.name)) < 50:
            helps.append("torch.compile")
        advice.append(
            f"Call fewer, larger operators{per_step}: at {mean_us:.1f} us each, calling them is much of their cost. "
            f"Use {_either(helps)}."
        )
    if not advice or busy * ops[0].percent >= 100 * _LARGE_PERCENT:
        advice.append(f"Speed up {ops[0].name}: {_remedy(ops, found)}.")
    return advice


def _remedy(ops: list[OpSummary], found: Findings) -> str:
    """Return advice to make the largest operator, `ops[0]`, cheaper."""
    op = ops[0]
    if _is(op, (*_ATTENTION, *_PRODUCTS)):
        smaller: list[str] = []
        if _is(op, _ATTENTION):
            smaller = ["a smaller dtype"]
        elif not found.is_quantized and not any(_is(one, _QUANTIZED) for one in ops):
            smaller = ["a smaller dtype or quantized weights"]
        larger = ["a larger batch"] * (not found.is_compute_bound)
        return f"use {_either([*smaller, 'more threads', *larger])}"
    if _is(op, _COPIES):
        return "move less memory, and write in place instead of copying and concatenating"
    return "call it less often, or fuse it with its neighbors"


def _either(choices: list[str]) -> str:
    """Join the choices as `a`, `a or b`, or `a, b, or c`."""
    if len(choices) < 3:
        return " or ".join(choices)
    return f"{', '.join(choices[:-1])}, or {choices[-1]}"


def _is(op: OpSummary, words: tuple[str, ...]) -> bool:
    return any(word in op.name.lower() for word in words)


def _percent(ops: list[OpSummary], words: tuple[str, ...]) -> float:
    return sum(op.percent for op in ops if _is(op, words))


def _python_ms(span: SpanSummary) -> float:
    return max(0.0, span.self_wall_ms - span.self_op_ms)


def _calls_and_mean(ops: list[OpSummary]) -> tuple[int, float]:
    """Return (calls of all operators, mean self time per call in us)."""
    calls = sum(op.calls for op in ops)
    return calls, 1000 * sum(op.self_ms for op in ops) / calls
