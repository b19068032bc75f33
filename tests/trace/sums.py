"""Checks that hold for the summary of any trace; without pytest, so that the fuzzer can run without it."""

import msgspec

from roseinfer.trace import Summary
from roseinfer.trace.summary.budget_structs import BudgetSummary, TimeBudget
from roseinfer.trace.summary.finding_structs import NO_SPAN

_HOST = ("host_late", "launch_call")
_GROUPS = 100  # maximum number of gap groups in a summary


def is_near(found: float, expected: float, within: float = 1e-5) -> bool:
    """True if the figures are equal up to float noise: times are whole nanoseconds, shares have two decimals."""
    return abs(found - expected) <= within + 1e-9 * abs(expected)


def check_sums(summary: Summary) -> None:
    """Raise AssertionError if a sum or a share of the summary is wrong."""
    for row in [*summary.devices, *([summary.gpu] if summary.gpu else [])]:
        cause = row.idle_by_cause
        parts = (cause.host_late_ms, cause.launch_call_ms, cause.device_queue_ms, cause.unlinked_ms)
        assert min(parts) >= 0, row
        assert is_near(row.busy_ms + row.idle_ms, row.window_ms, 5e-7), row
        assert is_near(sum(parts), row.idle_ms, 5e-7), row
        shares = (row.busy_percent, row.linked_percent, row.small_percent, row.small_kernels_percent)
        assert all(0 <= share <= 100 for share in (*shares, row.replayed_percent)), row
        assert 0 <= row.kernels <= row.gpu_events, row
        assert row.launches <= row.gpu_events, row
    if summary.budget:
        _check_budget(summary.budget)
    if summary.gpu:
        _check_gpu(summary, summary.gpu.idle_by_cause.host_late_ms + summary.gpu.idle_by_cause.launch_call_ms)
    _check_findings(summary)
    assert 0 <= summary.cpu.top_level_busy_percent <= 100, summary.cpu
    for span in summary.spans:
        assert 0 <= span.self_wall_ms <= span.wall_ms + 1e-6 or span.calls > 1, span
        assert span.self_gpu_events <= span.gpu_events or span.name == NO_SPAN, span
        assert span.kernels <= span.gpu_events, span
        assert 0 <= span.small_percent <= 100, span
    for device in ("cpu", "gpu"):
        percents = [op.percent for op in summary.top_ops if op.device == device]
        assert all(0 <= share <= 100 for share in percents)
        assert is_near(sum(percents), 100, 0.01 * len(percents)) or sum(percents) == 0
    for bound in summary.what_if:
        assert 0 <= bound.saves_percent <= 100, bound
        assert bound.speedup >= 1 or bound.speedup == 0, bound
    for phase, costs in summary.phase_costs.items():
        gpu_ms = summary.steps.phases[phase].gpu_ms_per_step
        assert is_near(sum(costs.kernels.values()), gpu_ms, 1e-6 * (2 + len(costs.kernels))), phase
    for kind in ("operators", "kernels"):
        device = "cpu" if kind == "operators" else "gpu"
        in_steps = sum(
            sum(getattr(costs, kind).values()) * summary.steps.phases[phase].rank_steps
            for phase, costs in summary.phase_costs.items()
        )
        everything = sum(op.self_ms for op in summary.top_ops if op.device == device)
        assert in_steps <= everything + 1e-5 * (1 + len(summary.top_ops)) * (1 + summary.steps.rank_steps), kind
    rows = summary.steps.phases.values()
    assert sum(row.count for row in rows) == summary.steps.count <= summary.steps.rank_steps
    assert sum(row.rank_steps for row in rows) == summary.steps.rank_steps
    _check_completeness(summary)


def _parts(budget: TimeBudget) -> list[float]:
    """Return the parts of a budget, in one order for all budgets."""
    fields = msgspec.to_builtins(budget)
    host = fields.pop("host_ms")
    return [*host.values(), *(fields[name] for name in sorted(fields) if name.endswith("_ms") and name != "wall_ms")]


def _check_budget(budget: BudgetSummary) -> None:
    for row in [budget.total, *budget.devices, *budget.steps, *budget.phases.values()]:
        assert min(_parts(row)) >= 0, row
        assert is_near(sum(_parts(row)), row.wall_ms), row
    for name, rows in (("total", budget.devices), *((phase, []) for phase in budget.phases)):
        whole = budget.total if name == "total" else budget.phases[name]
        rows = rows or [step for step in budget.steps if step.phase == name]
        for index, part in enumerate(_parts(whole)):
            assert is_near(part, sum(_parts(row)[index] for row in rows), 1e-5), (name, index)
    assert all(0 <= place.short_ms <= place.ms and place.longest_ms <= place.ms for place in budget.idle)
    assert all(row.exposed_ms <= row.total_ms for row in budget.exposed)


def _check_findings(summary: Summary) -> None:
    """Findings are shares of the wall time; a verdict repeats no line, and has none without findings."""
    verdict, budget = summary.verdict, summary.budget
    for finding in summary.findings:
        assert budget is not None, finding
        assert 0 < finding.share_percent <= 100.01, finding
        assert 0 < finding.saves_ms <= budget.total.wall_ms + 1e-5, finding
        assert finding.sentence.endswith("."), finding
    lines = [*verdict.evidence, *verdict.advice]
    assert len(set(lines)) == len(lines), verdict
    assert verdict.advice, verdict
    if verdict.kind in ("incomplete", "capture", "empty"):
        assert not summary.findings, verdict
    if verdict.kind == "gpu_bound" and budget is not None:
        busy = budget.total.compute_ms
        assert busy > 0, verdict


def _check_gpu(summary: Summary, host_ms: float) -> None:
    assert summary.gpu is not None
    total = sum(op.total_ms for op in summary.top_ops if op.device == "gpu")
    assert is_near(sum(span.self_gpu_ms for span in summary.spans), total)
    assert sum(span.self_gpu_events for span in summary.spans) == summary.gpu.gpu_events
    assert is_near(sum(span.idle_caused_ms for span in summary.spans), host_ms)
    gaps_ms = sum(gap.ms for gap in summary.gaps)
    assert gaps_ms <= summary.gpu.idle_ms + 1e-5
    if len(summary.gaps) < _GROUPS:
        assert is_near(gaps_ms, summary.gpu.idle_ms)
        for span in summary.spans:
            mine = sum(gap.ms for gap in summary.gaps if gap.span == span.name and gap.cause in _HOST)
            assert is_near(mine, span.idle_caused_ms), span


def _check_completeness(summary: Summary) -> None:
    found = summary.completeness
    assert found.complete == (not any(one.decisive for one in found.missing)), found
    for one in found.missing:
        assert one.count > 0, one
        assert one.what.endswith("."), one
        assert (one.from_ms is None) == (one.to_ms is None), one
        assert one.from_ms is None or one.to_ms is None or 0 <= one.from_ms <= one.to_ms, one
        assert any(note.message == one.what for note in summary.trust), one
    if found.capture:
        assert 0 <= found.capture.percent <= 100, found
        assert found.capture.ms <= found.capture.to_ms - found.capture.from_ms + 1e-6, found
