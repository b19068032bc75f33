"""The verdict on a trace without GPU work."""

from roseinfer.trace.summary import NO_SPAN, CpuSummary, OpSummary, Repetition, SpanSummary, StepsSummary, Verdict


def judge_cpu(
    cpu: CpuSummary,
    steps: StepsSummary,
    spans: list[SpanSummary],
    top_ops: list[OpSummary],
    repetition: list[Repetition],
) -> Verdict:
    """The largest operator and the heaviest span, and whether Python or the operators take the time."""
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
