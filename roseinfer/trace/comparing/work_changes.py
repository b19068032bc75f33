"""Compare the GPU time of two traces by category, operator and kernel, with the noise of their steps."""

import math
from collections.abc import Callable
from typing import Literal

from roseinfer.trace.naming import duration
from roseinfer.trace.summary.budget_structs import TimeBudget
from roseinfer.trace.summary.comparison_structs import BudgetChange, PhaseChange, PhaseCosts, StepCost, WorkChange
from roseinfer.trace.summary.units import to_percent

_MAX_ROWS = 20
_CLEAR_PERCENT = 1.0
"""Change, in percent of the baseline, from which a figure counts as changed, however small the noise."""
_LARGE_PERCENT = 1.0
"""Change of a category, in percent of the step, from which a step of the same time is said to have moved."""

WorkKind = Literal["category", "operator", "kernel"]
_OF_KIND: dict[WorkKind, Callable[[PhaseCosts], dict[str, StepCost]]] = {
    "category": lambda costs: costs.categories,
    "operator": lambda costs: costs.gpu_operators,
    "kernel": lambda costs: costs.gpu_kernels,
}
_HOST = {
    "data_loading": "data loading",
    "synchronizing_calls": "synchronizing calls of the host",
    "allocation": "allocation calls of the host",
    "launch_calls": "launch calls of the host",
    "operators": "operators on the host",
    "python": "Python on the host",
}
_PARTS = {
    "exposed_communication_ms": "exposed communication",
    "exposed_copy_ms": "exposed copies",
    "queue_ms": "the device's queue",
    "not_recorded_ms": "time that is not recorded",
}


def work_changes(
    phase: PhaseChange, old: PhaseCosts, new: PhaseCosts, counts: tuple[int, int], name: Callable[[str], str]
) -> list[WorkChange]:
    """Return the changes of a phase, per token if it is compared so: per kind, the largest first, at most 20.

    `counts` are the numbers of steps; `name` makes names of kernels equal over builds.
    """
    scale = (1.0, 1.0)
    if phase.per == "token":
        before, after = phase.compared_ms
        scale = (before / phase.baseline_ms, after / phase.new_ms)
    found: list[WorkChange] = []
    for kind, costs in _OF_KIND.items():
        named = name if kind == "kernel" else str
        before_of, after_of = _merged(costs(old), named), _merged(costs(new), named)
        rows = [
            _change(phase, kind, one, before_of.get(one), after_of.get(one), counts, scale)
            for one in {**after_of, **before_of}
        ]
        found += sorted(rows, key=lambda row: (-abs(row.new_ms - row.baseline_ms), row.name))[:_MAX_ROWS]
    return found


def _merged(costs: dict[str, StepCost], named: Callable[[str], str]) -> dict[str, StepCost]:
    found: dict[str, StepCost] = {}
    for name, cost in costs.items():
        other = found.get(named(name), StepCost(0.0, 0.0))
        found[named(name)] = StepCost(cost.ms + other.ms, math.hypot(cost.std_ms, other.std_ms))
    return found


def _change(
    phase: PhaseChange,
    kind: WorkKind,
    name: str,
    old: StepCost | None,
    new: StepCost | None,
    counts: tuple[int, int],
    scale: tuple[float, float],
) -> WorkChange:
    before, after = old or StepCost(0.0, 0.0), new or StepCost(0.0, 0.0)
    old_ms, new_ms = before.ms * scale[0], after.ms * scale[1]
    noise = None
    if max(counts) > 1:
        old_std, new_std = before.std_ms * scale[0], after.std_ms * scale[1]
        if min(counts) == 1:  # the spread of a single step is unknown
            old_std = new_std = max(old_std, new_std)
        noise = round(2 * math.hypot(old_std / math.sqrt(counts[0]), new_std / math.sqrt(counts[1])), 6)
    change = new_ms - old_ms
    verdict: Literal["slower", "faster", "new", "gone", "no clear change"] = "no clear change"
    if old_ms == 0 or new_ms == 0:
        verdict = "new" if old_ms == 0 else "gone"
    elif abs(change) > max(noise or 0.0, _CLEAR_PERCENT / 100 * old_ms):
        verdict = "slower" if change > 0 else "faster"
    return WorkChange(
        phase=phase.phase,
        kind=kind,
        name=name,
        per=phase.per,
        baseline_ms=round(old_ms, 6),
        new_ms=round(new_ms, 6),
        change_percent=to_percent(change, old_ms) if old_ms else None,
        noise_ms=noise,
        verdict=verdict,
    )


def has_moved(phase: PhaseChange, changes: list[WorkChange]) -> bool:
    """True if a category of a phase changed by more than its noise, and by a share of the step that matters."""
    least = _LARGE_PERCENT / 100 * phase.compared_ms[0]
    return any(
        row.phase == phase.phase
        and row.kind == "category"
        and row.verdict != "no clear change"
        and abs(row.new_ms - row.baseline_ms) >= least
        for row in changes
    )


def largest_cause(phase: PhaseChange, changes: list[WorkChange], budgets: list[BudgetChange]) -> str | None:
    """Return the part of a step that changed most in the direction of the step's change, as a sentence; None if none.

    Parts are the categories of GPU time, and the parts of the time budget in which the device waits.
    """
    before, after = phase.compared_ms
    sign = 1 if after >= before else -1
    parts = {
        f"{row.name} on the GPU": (row.baseline_ms, row.new_ms)
        for row in changes
        if row.kind == "category" and row.phase == phase.phase and row.verdict != "no clear change"
    }
    if phase.per != "token":
        for budget in budgets:
            if budget.phase == phase.phase:
                old, new = _waits(budget.baseline), _waits(budget.new)
                parts |= {name: (old[name], new[name]) for name in old}
    name = max(parts, key=lambda one: sign * (parts[one][1] - parts[one][0]), default=None)
    if name is None:
        return None
    change = parts[name][1] - parts[name][0]
    if phase.verdict == "moved":
        name = max(parts, key=lambda one: abs(parts[one][1] - parts[one][0]))
        change = parts[name][1] - parts[name][0]
    elif sign * change <= 0:
        return None
    longer = "longer" if change > 0 else "less"
    return f"{phase.phase}: the largest cause is {name}, {duration(abs(change), 2)} {longer} per {phase.per}"


def _waits(budget: TimeBudget) -> dict[str, float]:
    host = {label: getattr(budget.host_ms, name) for name, label in _HOST.items()}
    return host | {label: getattr(budget, name) for name, label in _PARTS.items()}
