"""Sheets of the comparison of a trace with a baseline trace."""

from roseinfer.cli.rendering.table_sheet import Sheet, milliseconds, sheet
from roseinfer.trace.summary.comparison_structs import FigureChange, TraceComparison


def comparison_sheets(comparison: TraceComparison, top: int) -> list[Sheet]:
    """Return the comparison of step times, then of spans, launches and kernels, all per step."""
    steps = [
        [
            row.phase,
            milliseconds(row.baseline_ms),
            milliseconds(row.new_ms),
            f"{row.change_percent:+.1f}",
            "?" if row.noise_percent is None else f"{row.noise_percent:.1f}",
            row.verdict,
        ]
        for row in comparison.phases
    ]
    columns = ("-Phase", "Before ms", "After ms", "Change %", "Noise %", "~Verdict")
    kernels = "Kernels" if comparison.kernels_on == "gpu" else "Operators"
    parts = (("Spans", comparison.spans), ("Launches", comparison.launches), (kernels, comparison.kernels))
    return [
        sheet("Compared with the baseline, per step", columns, steps),
        *(
            _changes(title, [row for row in rows if row.phase == phase], top)
            for phase in dict.fromkeys(row.phase for row in comparison.spans + comparison.kernels)
            for title, rows in parts
        ),
    ]


def _changes(what: str, changes: list[FigureChange], top: int) -> Sheet:
    rows = [
        [
            row.name,
            milliseconds(row.baseline),
            milliseconds(row.new),
            _change(row),
        ]
        for row in changes[:top]
        if row.new != row.baseline
    ]
    title = what
    if changes:
        of_phase = "" if changes[0].phase in (None, "step") else f" of {changes[0].phase}"
        title = f"{what}{of_phase}, {changes[0].unit}"
    return sheet(title, ("*Name", "Before", "After", "~Change %"), rows)


def _change(row: FigureChange) -> str:
    if row.change_percent is None:
        return "new"
    return f"{row.change_percent:+.1f}" if row.new else "gone"
