"""The verdict on a trace without work on a device: what the CPU did."""

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding, Place
from roseinfer.trace.summary.trace_summary import Verdict, VerdictKind
from roseinfer.trace.verdict.cpu_operators import ATTENTION, calls_and_mean, is_product, percent_of
from roseinfer.trace.verdict.cpu_rules import (
    collectives_percent,
    cpu_ops,
    find_largest_operator,
    find_small_operators,
    find_time_outside_operators,
    heaviest_span,
    operators_percent,
    outside_ms,
)
from roseinfer.trace.verdict.data_loading import find_data_loading
from roseinfer.trace.verdict.exposed_communication import find_exposed_communication
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.own_cpu_run import beside_floor, find_own_costs, floor_evidence, floor_of
from roseinfer.trace.verdict.rank_waits import find_rank_waits, rank_headline
from roseinfer.trace.verdict.thresholds import LARGE_PERCENT, OPERATORS_PERCENT
from roseinfer.trace.verdict.verdict_kind import ReducibleCause
from roseinfer.trace.verdict.verdict_lines import MAX_ADVICE, MAX_EVIDENCE, distinct_lines


def cpu_findings(judged: JudgedTrace) -> list[Finding]:
    """Return what could be reduced in a CPU run: the cause that gives the kind, then the largest share first."""
    small = find_small_operators(judged)
    found = [*find_data_loading(judged), *find_exposed_communication(judged), *find_rank_waits(judged), *small]
    if judged.is_own:
        found += find_own_costs(judged, are_small=bool(small))
    else:
        found += find_largest_operator(judged)
    found += find_time_outside_operators(judged)
    cause = _cause(judged)
    return sorted(found, key=lambda finding: (finding.kind != cause, -finding.share_percent))


def judge_cpu(judged: JudgedTrace, findings: list[Finding]) -> Verdict:
    """Return the verdict on a run without device work."""
    advice = [finding.advice for finding in findings]
    if not advice:
        advice = [_without_findings(judged)]
    evidence = cpu_evidence(judged, findings)
    kind, headline = _kind_and_headline(judged, findings)
    return Verdict(kind, headline, evidence, distinct_lines(advice, MAX_ADVICE))


def _cause(judged: JudgedTrace) -> ReducibleCause | None:
    """Return communication or data loading if this is the largest share and at least 20 % of the time."""
    shares = judged.shares
    is_cause = (
        shares.largest in ("communication", "waiting", "data") and shares.reducible[shares.largest] >= LARGE_PERCENT
    )
    return shares.largest if is_cause else None


def _kind_and_headline(judged: JudgedTrace, findings: list[Finding]) -> tuple[VerdictKind, str]:
    cause = _cause(judged)
    if cause is None:
        return "cpu_only", _headline(judged)
    if cause == "waiting":
        return judged.waiting_kind, rank_headline(judged)
    share, place = judged.shares.reducible[cause], findings[0].where if findings else Place()
    name = place.file or place.operator or place.span
    where = f", longest in {name}" if name else ""
    if cause == "communication":
        text = f"Communication-bound: {share:.1f} % of the time is exposed communication{where}."
        return "communication_bound", text
    return "data_bound", f"Data-bound: the run waits {share:.1f} % of the time for input data{where}."


def _headline(judged: JudgedTrace) -> str:
    ops, busy = cpu_ops(judged), operators_percent(judged)
    floor = floor_of(judged)
    if floor is not None:
        return f"CPU only: {beside_floor(floor)}{_bound_by(judged)}."
    if not ops:
        return "CPU only: the trace holds no GPU work and no operators."
    if busy >= OPERATORS_PERCENT:
        return (
            f"CPU only: operators run {busy:.0f} % of the time; the largest is {ops[0].name} "
            f"({ops[0].percent:.0f} % of operator time)."
        )
    heavy = heaviest_span(judged)
    where = f", {duration(outside_ms(judged, heavy))} of it in {heavy.name}" if heavy else ""
    shared = collectives_percent(judged)
    outside = f"{100 - busy - shared:.0f} % is outside {'both' if shared else 'them'}{where}"
    collectives = f", collectives {shared:.0f} %" if shared else ""
    return f"CPU only: operators run {busy:.0f} % of the time{collectives}; {outside}."


def _bound_by(judged: JudgedTrace) -> str:
    busy = operators_percent(judged)
    if busy < OPERATORS_PERCENT:
        shared = collectives_percent(judged)
        collectives = f"collectives take {shared:.0f} % of the time, and " if shared else ""
        of_time, also = ("", "both them and ") if shared else (" of the time", "")
        return f"; {collectives}{100 - busy - shared:.0f} %{of_time} is outside {also}operators"
    ops = cpu_ops(judged)
    products = [op for op in ops if is_product(op)]
    if products:
        share = sum(op.percent for op in products) * busy / 100
        return f"; matrix products take {share:.0f} % of the time, {products[0].name} most"
    return f"; {ops[0].name} takes most of the time" if ops else ""


def _without_findings(judged: JudgedTrace) -> str:
    ops, heavy = cpu_ops(judged), heaviest_span(judged)
    if not ops:
        return "Record operators too (ProfilerActivity.CPU), or add spans around the code to explain."
    where = f" in {heavy.name}" if heavy else ""
    return (
        f"No single operator or function stands out: {ops[0].name} takes {ops[0].percent:.0f} % of operator time. Add "
        f"spans{where} to see which part of the program takes longest."
    )


def cpu_evidence(judged: JudgedTrace, findings: list[Finding]) -> list[str]:
    """Return one to five lines that say what the host did."""
    ops, total = cpu_ops(judged), judged.total
    lines = floor_evidence(judged)
    outside = total.wall_ms - total.compute_ms - total.exposed_communication_ms - total.host_ms.data_loading
    loading = total.host_ms.data_loading
    parts = [f"{duration(total.compute_ms)} are in operators"]
    parts += [f"{duration(total.exposed_communication_ms)} in collectives"] * bool(total.exposed_communication_ms)
    parts += [f"{duration(loading)} in data loading"] * bool(loading)
    lines.append(
        f"Of {duration(total.wall_ms)}{judged.on_several}, {', '.join(parts)}; {duration(max(0.0, outside))} are plain "
        "Python, waits, or libraries that the profiler does not see."
    )
    lines += [finding.sentence for finding in findings]
    if ops:
        calls, mean_us = calls_and_mean(ops)
        attention, products = percent_of(ops, ATTENTION), sum(op.percent for op in ops if is_product(op))
        if products and not judged.is_own:
            also = f", attention {attention:.0f} %" if attention else ""
            lines.append(f"Matrix products take {products:.0f} % of operator time{also}.")
        if not any(finding.where.operator == ops[0].name for finding in findings):
            lines.append(
                f"{ops[0].name} takes {duration(ops[0].self_ms)} in {counted(ops[0].calls, 'call')}, "
                f"{ops[0].percent:.0f} % of operator time, of {counted(calls, 'operator call')} with a mean self time "
                f"of {mean_us:,.1f} us."
            )
    heavy = heaviest_span(judged)
    if heavy and heavy.self_wall_ms and not any(finding.id == "outside_operators" for finding in findings):
        lines.append(
            f"{heavy.name} has a self time of {duration(heavy.self_wall_ms)} in {counted(heavy.calls, 'call')}: "
            f"{duration(heavy.self_op_ms)} in operators, {duration(outside_ms(judged, heavy))} outside them."
        )
    repeated = next((row for row in judged.repetition if row.span != NO_SPAN), None)
    if repeated:
        lines.append(
            f"{repeated.span} repeats a sequence of {counted(repeated.pattern_launches, 'operator')} "
            f"{repeated.repeats} times per step."
        )
    return distinct_lines(lines, MAX_EVIDENCE)
