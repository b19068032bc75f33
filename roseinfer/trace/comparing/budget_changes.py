"""Compare the time budgets of two traces: which part of a step became longer or shorter."""

from collections.abc import Mapping, Sequence

from roseinfer.trace.summary.budget_structs import BudgetSummary, HostTime, TimeBudget
from roseinfer.trace.summary.comparison_structs import BudgetChange

StepWeights = dict[int, float]
"""How often each step counts, by its index."""


def budget_changes(
    new: BudgetSummary | None,
    baseline: BudgetSummary | None,
    phases: list[str],
    *,
    whole: bool,
    weights: Mapping[str, tuple[StepWeights, StepWeights]] | None = None,
) -> list[BudgetChange]:
    """Return the budgets of a step of each phase that both traces have; with `whole`, those of the recordings.

    `weights` are of the baseline's and of the new trace's steps, for phases in which the two hold unequal work.
    """
    if new is None or baseline is None:
        return []
    if whole:
        return [BudgetChange(None, baseline.total, new.total)]
    found: list[BudgetChange] = []
    for phase in phases:
        of_old, of_new = (weights or {}).get(phase, (None, None))
        before, after = _step(baseline, phase, of_old), _step(new, phase, of_new)
        if before is not None and after is not None:
            found.append(BudgetChange(phase, before, after))
    return found


def _step(budget: BudgetSummary, phase: str, weights: StepWeights | None) -> TimeBudget | None:
    """Return the mean budget of a step of a phase on one device, or None without such steps."""
    rows = [(row, 1.0 if weights is None else weights.get(row.step, 0.0)) for row in budget.steps if row.phase == phase]
    total = sum(weight for _, weight in rows)  # a step counts once per device
    if total <= 0:
        return None

    def mean(parts: Sequence[TimeBudget | HostTime], name: str) -> float:
        values = (float(getattr(part, name)) * weight for part, (_, weight) in zip(parts, rows, strict=True))
        return round(sum(values) / total, 6)

    steps = [row for row, _ in rows]
    fields = {name: mean(steps, name) for name in TimeBudget.__struct_fields__ if name != "host_ms"}
    host = {name: mean([row.host_ms for row in steps], name) for name in HostTime.__struct_fields__}
    return TimeBudget(**fields, host_ms=HostTime(**host))
