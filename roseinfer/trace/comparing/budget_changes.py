"""Compare the time budgets of two traces: which part of a step became longer or shorter."""

import msgspec

from roseinfer.trace.summary.budget_structs import BudgetSummary, HostTime, TimeBudget
from roseinfer.trace.summary.comparison_structs import BudgetChange


def budget_changes(
    new: BudgetSummary | None, baseline: BudgetSummary | None, phases: list[str], *, whole: bool
) -> list[BudgetChange]:
    """Return the budgets of a step of each phase that both traces have; with `whole`, those of the recordings."""
    if new is None or baseline is None:
        return []
    if whole:
        return [BudgetChange(None, baseline.total, new.total)]
    found: list[BudgetChange] = []
    for phase in phases:
        before, after = _step(baseline, phase), _step(new, phase)
        if before is not None and after is not None:
            found.append(BudgetChange(phase, before, after))
    return found


def _step(budget: BudgetSummary, phase: str) -> TimeBudget | None:
    """Return the mean budget of a step of a phase on one device, or None without such steps."""
    steps = sum(step.phase == phase for step in budget.steps)  # a step counts once per device
    if not steps:
        return None
    of_phase = budget.phases[phase]
    fields = {name: getattr(of_phase, name) for name in TimeBudget.__struct_fields__ if name != "host_ms"}
    host = {name: round(value / steps, 6) for name, value in msgspec.structs.asdict(of_phase.host_ms).items()}
    return TimeBudget(**{name: round(value / steps, 6) for name, value in fields.items()}, host_ms=HostTime(**host))
