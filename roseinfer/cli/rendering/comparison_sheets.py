"""Sheets of the comparison of a trace with a baseline trace."""

from roseinfer.cli.rendering.budget_sheets import NamedBudget, shown_parts
from roseinfer.cli.rendering.table_sheet import TOTAL, Sheet, milliseconds, sheet
from roseinfer.trace.naming import counted
from roseinfer.trace.summary.comparison_structs import (
    BudgetChange,
    FigureChange,
    ScalingChange,
    TraceComparison,
    WorkChange,
)

_SHOWN = 0.0005
"""Smallest time in ms, or number of events, that three decimals show as other than 0."""


def comparison_sheets(comparison: TraceComparison, top: int) -> list[Sheet]:
    """Return the comparison of step times, then of spans, launches and kernels, all per step."""
    steps = [
        [
            f"{row.phase}, per token" if row.per == "token" else row.phase,
            *map(milliseconds, row.compared_ms),
            f"{row.change_percent:+.1f}",
            "?" if row.noise_percent is None else f"{row.noise_percent:.1f}",
            row.verdict,
        ]
        for row in comparison.phases
    ]
    columns = ("-Phase", "Before ms", "After ms", "Change %", "Noise %", "~Verdict")
    kernels = "Kernels" if comparison.kernels_on == "gpu" else "Operators"
    from_end = [row.phase for row in comparison.phases if row.timed_by == "wall"]
    named = "" if len(from_end) == len(comparison.phases) else f"{', '.join(from_end)} "
    since = f", {named}timed from the end of the step before" if from_end else ""
    per_token = {row.phase for row in comparison.phases if row.per == "token"}
    parts = (("Spans", comparison.spans), ("Launches", comparison.launches), (kernels, comparison.kernels))
    return [
        sheet(f"Compared with the baseline, per step{since}", columns, steps),
        *([_scaling_sheet(comparison.scaling, len(comparison.phases) > 1)] if comparison.scaling else []),
        *(_budget_sheet(change, is_per_step=change.phase in per_token) for change in comparison.budgets),
        *(
            _work_sheet([row for row in comparison.work if (row.phase, row.kind) == (phase.phase, kind)], top)
            for phase in comparison.phases
            for kind in ("category", "operator")
        ),
        *(
            _changes(title, [row for row in rows if row.phase == phase], top)
            for phase in dict.fromkeys(row.phase for row in comparison.spans + comparison.kernels)
            for title, rows in parts
        ),
    ]


def _work_sheet(changes: list[WorkChange], top: int) -> Sheet:
    """Return the changes of GPU time by category or by operator."""
    rows = [
        [
            row.name,
            milliseconds(row.baseline_ms),
            milliseconds(row.new_ms),
            _difference(row.new_ms - row.baseline_ms),
            "?" if row.noise_ms is None else milliseconds(row.noise_ms),
            row.verdict,
        ]
        for row in changes[:top]
        if _is_shown(row.new_ms - row.baseline_ms)
    ]
    columns = ("*Name", "Before ms", "After ms", "Change ms", "Noise ms", "~Verdict")
    if not changes:
        return sheet("", columns, [])
    first = changes[0]
    per = (
        ""
        if first.per == "window"
        else f", {first.phase}, per {first.per}"
        if first.phase != "step"
        else f", per {first.per}"
    )
    return sheet(f"GPU time by {first.kind}{per}", columns, rows)


def _scaling_sheet(change: ScalingChange, is_one_of_several: bool) -> Sheet:
    """Return where the time of a step beyond the ideal one went, with the wall time as last row.

    The title names the phase if it is one of several.
    """
    names = {
        "wait": "waits for other ranks",
        "kernels": "compute",
        "copies": "exposed copies",
        "other": "other idle time",
    }
    rows = [
        [
            names.get(row.part, row.part),
            milliseconds(row.baseline_ms),
            milliseconds(row.new_ms),
            _difference(row.lost_ms),
        ]
        for row in change.lost
        if row.baseline_ms or row.new_ms
    ]
    beyond = _difference(change.new_ms - change.ideal_ms)
    rows.append([TOTAL, milliseconds(change.baseline_ms), milliseconds(change.new_ms), beyond])
    phase = f"{change.phase} " if is_one_of_several else ""
    work = "the work split" if change.work == "split" else "as much work on each rank"
    title = (
        f"From {change.ranks_before} to {counted(change.ranks_after, 'rank')}, {work}: "
        f"{phase}{change.speedup:.2f} times as fast, ideal {change.ideal_speedup:.2f}"
    )
    return sheet(title, ("-Part of a step", "Before ms", "After ms", "Beyond ideal ms"), rows)


def _budget_sheet(change: BudgetChange, *, is_per_step: bool) -> Sheet:
    """Return a row per part of the time budget, before and after, with the wall time as last row.

    The title says that the times are per step if other tables of the phase are per token.
    """
    before, after = NamedBudget("before", change.baseline), NamedBudget("after", change.new)
    times = [(part.label, before.ms(part), after.ms(part)) for part in shown_parts([before, after])]
    times.append((TOTAL, before.wall_ms, after.wall_ms))
    rows = [
        [name, milliseconds(old), milliseconds(new), _difference(new - old), _percent(old, new)]
        for name, old, new in times
    ]
    of_phase = "the recording" if change.phase is None else "a step" if change.phase == "step" else change.phase
    columns = ("-Part", "Before ms", "After ms", "Change ms", "~Change %")
    per = ", per step" if is_per_step else ""
    return sheet(f"Time budget of {of_phase}, before and after{per}", columns, rows)


def _difference(ms: float) -> str:
    return f"{'-' if ms < 0 else '+'}{milliseconds(abs(ms))}" if _is_shown(ms) else "0"


def _is_shown(ms: float) -> bool:
    """Return whether three decimals show a number as other than 0."""
    return abs(ms) >= _SHOWN


def _percent(before: float, after: float) -> str:
    """Return a change in percent; `new` or `gone` if one side is shown as 0."""
    if not _is_shown(before):
        return "new" if _is_shown(after) else "0.0"
    percent = 100 * (after - before) / before
    return "gone" if not _is_shown(after) else "0.0" if abs(percent) < 0.05 else f"{percent:+.1f}"


def _changes(what: str, changes: list[FigureChange], top: int) -> Sheet:
    rows = [
        [
            row.name,
            milliseconds(row.baseline),
            milliseconds(row.new),
            _percent(row.baseline, row.new),
        ]
        for row in changes[:top]
        if row.new != row.baseline
    ]
    title = what
    if changes:
        of_phase = "" if changes[0].phase in (None, "step") else f" of {changes[0].phase}"
        title = f"{what}{of_phase}, {changes[0].unit}"
    return sheet(title, ("*Name", "Before", "After", "~Change %"), rows)
