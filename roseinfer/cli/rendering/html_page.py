"""A trace summary as a self-contained HTML page without network access, for light and dark mode.

Its script sorts tables and zooms drawings. Without scripts the page shows the same.
"""

from roseinfer.cli.rendering.budget_bars import bar_key, budget_bars, comparison_bars, step_columns
from roseinfer.cli.rendering.budget_sheets import PARTS, budget_sheets
from roseinfer.cli.rendering.flame_graph import draw_flame, flame_title
from roseinfer.cli.rendering.html_elements import environment
from roseinfer.cli.rendering.memory_sheets import PLOT_HEIGHT, PLOT_WIDTH, memory_plots
from roseinfer.cli.rendering.rank_lanes import lane_key, lane_title, rank_lanes
from roseinfer.cli.rendering.recording_context import context_parts, remarks
from roseinfer.cli.rendering.sheets import all_sheets, shown_devices
from roseinfer.cli.rendering.step_drawing import WIDTH, draw_step, draw_timeline
from roseinfer.cli.rendering.table_sheet import milliseconds
from roseinfer.cli.rendering.work_sheets import work_sheets
from roseinfer.trace.summary.trace_summary import Summary
from roseinfer.version import __version__

_TOP = 20
"""Rows of the top operators, per device."""


def to_html(summary: Summary, *, command: str | None = None) -> str:
    """Return the summary as an HTML page, with the same tables as on the terminal.

    `command` is the command line that made the page, shown at its end.
    """
    budgets = len(budget_sheets(summary.budget, summary.devices))
    lanes = rank_lanes(summary)
    sheets = [sheet.without_bars() for sheet in (*all_sheets(summary, _TOP, "self"), *work_sheets(summary, _TOP))]
    return (
        environment()
        .get_template("html_page.html.j2")
        .render(
            summary=summary,
            context=context_parts(summary),
            remarks=remarks(summary),
            bars=budget_bars(summary.budget, summary.devices),
            lanes=lanes,
            lane_key=lane_key(lanes),
            lane_title=lane_title(summary),
            compared_bars=comparison_bars(summary.comparison.budgets) if summary.comparison else [],
            key=bar_key(summary.budget, summary.comparison),
            columns=step_columns(summary.budget),
            longest_ms=max((step.wall_ms for step in summary.budget.steps), default=0.0) if summary.budget else 0.0,
            swatches={part.label: part.key for part in PARTS},
            budget_sheets=sheets[:budgets],
            sheets=sheets[budgets:],
            step=draw_step(summary.typical_step) if summary.typical_step else None,
            devices=[(device, draw_timeline(device)) for device in shown_devices(summary)],
            memory_plots=memory_plots(summary),
            flame=draw_flame(summary),
            flame_title=flame_title(summary),
            plot_size=(PLOT_WIDTH, PLOT_HEIGHT),
            milliseconds=milliseconds,
            width=WIDTH,
            version=__version__,
            command=command,
        )
    )
