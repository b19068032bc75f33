"""Stacked bars of the time budget: one per phase, for the whole recording, and per device."""

from collections.abc import Sequence
from typing import NamedTuple

from roseinfer.cli.rendering.budget_sheets import NamedBudget, device_budgets, phase_budgets, shown_parts
from roseinfer.cli.rendering.table_sheet import milliseconds
from roseinfer.trace.naming import counted
from roseinfer.trace.summary.budget_structs import BudgetSummary
from roseinfer.trace.summary.comparison_structs import BudgetChange, TraceComparison
from roseinfer.trace.summary.device_structs import DeviceSummary

_MAX_DEVICES = 16
"""Devices with a bar of their own. The table has all of them."""
_MIN_COLUMNS, _MAX_COLUMNS = 4, 160
"""Numbers of steps between which a picture of all steps is readable."""
_MIN_LABEL_PERCENT = 9.0
"""Share from which a part is wide enough for its percentage, on a phone too."""


class BarPart(NamedTuple):
    """A part of a stacked bar, which fills `percent` of it."""

    css: str
    percent: float
    label: str
    title: str


class StepColumn(NamedTuple):
    """A stacked column for one step, `height` percent as high as that of the longest step."""

    height: float
    parts: list[BarPart]
    title: str


class StackedBar(NamedTuple):
    """A bar with its title, and a sentence for people who do not see it."""

    title: str
    parts: list[BarPart]
    spoken: str
    width: float = 100.0
    """Percent of the full width: a shorter bar beside a full one stands for less time."""


def budget_bars(budget: BudgetSummary | None, devices: Sequence[DeviceSummary]) -> list[StackedBar]:
    """Return a bar per phase, the phase with the most time first, one of the recording, and one per device."""
    if budget is None or not budget.total.wall_ms:
        return []
    and_device = " and device" if len(budget.devices) > 1 else ""
    steps = [
        (f"{one.name}: {milliseconds(one.wall_ms)} ms per step{and_device}, {counted(one.steps, 'step')}", one)
        for one in phase_budgets(budget)
        if one.wall_ms
    ]
    whole = NamedBudget("recording", budget.total)
    several = f" of {len(budget.devices)} devices" if len(budget.devices) > 1 else ""
    title = f"whole recording: {milliseconds(whole.wall_ms)} ms{several}"
    own = [
        (f"{one.name}: {milliseconds(one.wall_ms)} ms", one)
        for one in device_budgets(budget, devices, "GPU {id}", "rank {rank} GPU {id}", "rank {rank}")[:_MAX_DEVICES]
        if one.wall_ms
    ]
    return [_bar(text, one) for text, one in (*steps, (title, whole), *own)]


def comparison_bars(changes: Sequence[BudgetChange]) -> list[StackedBar]:
    """Return two bars per phase, before and after, as long as their steps."""
    bars: list[StackedBar] = []
    for change in changes:
        phase = "recording" if change.phase is None else change.phase
        longest = max(change.baseline.wall_ms, change.new.wall_ms)
        for when, budget in (("before", change.baseline), ("after", change.new)):
            if budget.wall_ms > 0:
                bar = _bar(f"{phase}, {when}: {milliseconds(budget.wall_ms)} ms", NamedBudget(phase, budget))
                bars.append(bar._replace(width=round(100 * budget.wall_ms / longest, 2)))
    return bars


def step_columns(budget: BudgetSummary | None) -> list[StepColumn]:
    """Return a column per step and device in order of time; an empty list for few steps, or for too many to draw."""
    steps = [] if budget is None else [step for step in budget.steps if step.wall_ms > 0]
    if not _MIN_COLUMNS <= len(steps) <= _MAX_COLUMNS:
        return []
    longest = max(step.wall_ms for step in steps)
    several = len({(step.rank, step.device) for step in steps}) > 1
    return [
        StepColumn(
            height=round(100 * step.wall_ms / longest, 2),
            parts=_bar("", NamedBudget(step.phase, step)).parts,
            title=f"step {step.step}, {step.phase}{f', rank {step.rank} GPU {step.device}' * several}: "
            f"{milliseconds(step.wall_ms)} ms",
        )
        for step in steps
    ]


def bar_key(budget: BudgetSummary | None, comparison: TraceComparison | None = None) -> list[tuple[str, str]]:
    """Return (CSS class, label) of each part that a bar shows."""
    budgets = [] if budget is None else [*phase_budgets(budget), NamedBudget("recording", budget.total)]
    budgets += [NamedBudget("before", change.baseline) for change in (comparison.budgets if comparison else [])]
    budgets += [NamedBudget("after", change.new) for change in (comparison.budgets if comparison else [])]
    return [(part.key, part.label) for part in shown_parts(budgets)]


def _bar(title: str, one: NamedBudget) -> StackedBar:
    parts = [
        BarPart(
            css=part.key,
            percent=round(one.percent(part), 3),
            label=f"{one.percent(part):.0f} %" if one.percent(part) >= _MIN_LABEL_PERCENT else "",
            title=f"{part.label}: {milliseconds(one.ms(part))} ms, {one.percent(part):.1f} %",
        )
        for part in shown_parts([one])
    ]
    return StackedBar(title, parts, "; ".join(part.title for part in parts))
