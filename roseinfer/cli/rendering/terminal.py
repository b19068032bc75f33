"""A trace summary on a terminal, printed by `summarize` and `profile`."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from roseinfer.cli.rendering.budget_sheets import budget_sheets
from roseinfer.cli.rendering.recording_context import context_parts, remarks
from roseinfer.cli.rendering.sheets import all_sheets, op_sheet, shown_devices, span_sheet
from roseinfer.cli.rendering.table_sheet import TOTAL, CellKind, Sheet, is_worse
from roseinfer.cli.rendering.text_table import Cell, text_table
from roseinfer.cli.rendering.text_wrapping import wrapped
from roseinfer.cli.rendering.work_groups import GroupBy
from roseinfer.cli.visible_text import visible
from roseinfer.config import SortKey
from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.comparison_structs import TraceComparison
from roseinfer.trace.summary.trace_summary import Summary, Verdict

_MIN_NAME = 12
_MIN_BAR, _MAX_BAR = 10, 30
"""Width in columns of a bar for 100 %."""
_BAR = "█"
_BLOCKS = " ▁▂▃▄▅▆▇█"
_STYLES = {
    "host_bound": "bold red",
    "data_bound": "bold red",
    "communication_bound": "bold red",
    "straggler": "bold red",
    "imbalanced": "bold red",
    "copy_bound": "bold red",
    "gpu_bound": "bold green",
    "balanced": "bold yellow",
    "incomplete": "bold yellow",
    "capture": "bold yellow",
}


def budget_tables(summary: Summary, *, width: int = 100) -> list[Text]:
    """Return the time budget, in tables of at most `width` columns."""
    return [sheet_table(sheet, width) for sheet in budget_sheets(summary.budget, summary.devices)]


def ops_table(summary: Summary, top: int = 15, sort_by: SortKey = "self", *, width: int = 100) -> Text:
    """Return the `top` CPU operators and the `top` GPU kernels, in a table of at most `width` columns."""
    return sheet_table(op_sheet(summary, top, sort_by), width)


def spans_table(summary: Summary, *, width: int = 100) -> Text:
    """Return the time of each named range of the program, in a table of at most `width` columns."""
    return sheet_table(span_sheet(summary), width)


def sheet_table(sheet: Sheet, width: int) -> Text:
    """Return a sheet as a table of at most `width` columns. Name columns share the width that the others leave.

    Bars are drawn if the other columns leave enough room.
    """
    bar_width = min(_MAX_BAR, width - sum(_content_widths(sheet.without_bars())) - 2 * len(sheet.columns) - 1)
    if bar_width < _MIN_BAR:
        sheet = sheet.without_bars()
    widths = _name_widths(sheet, width)
    rows = []
    for row in sheet.rows:
        cells = [
            _cell(cell, kind, name_width, bar_width)
            for cell, (_, kind), name_width in zip(row, sheet.columns, widths, strict=True)
        ]
        rows.append([Cell(cell.text, f"bold {cell.style}") for cell in cells] if row[0] == TOTAL else cells)
    return text_table(
        sheet.title,
        [title for title, _ in sheet.columns],
        [kind in ("name", "text", "bar", "change") and not title.endswith("%") for title, kind in sheet.columns],
        rows,
        width,
    )


def _cell(cell: str, kind: CellKind, name_width: int, bar_width: int) -> Cell:
    if kind == "bar":
        return Cell(_BAR * round(float(cell or 0) / 100 * bar_width), "cyan")
    if kind == "change":
        worse = is_worse(cell)
        return Cell(cell, "" if worse is None else "red" if worse else "green")
    return Cell(short_name(cell, name_width) if kind == "name" else cell)


def _content_widths(sheet: Sheet) -> list[int]:
    """Return the width of the longest cell of each column, titles included."""
    return [
        max(len(title), *(len(row[index]) for row in sheet.rows), 0) for index, (title, _) in enumerate(sheet.columns)
    ]


def _name_widths(sheet: Sheet, width: int) -> list[int]:
    """Return the width of each name column, and 0 for the other columns."""
    longest = _content_widths(sheet)
    names = [index for index, (_, kind) in enumerate(sheet.columns) if kind == "name"]
    taken = sum(size for index, size in enumerate(longest) if index not in names) + 2 * len(longest) + 1
    widths = [0] * len(longest)
    left = width - taken
    for share, index in enumerate(sorted(names, key=lambda index: longest[index])):
        widths[index] = max(_MIN_NAME, min(longest[index], left // (len(names) - share)))
        left -= widths[index]
    return widths


def timeline_strip(shares: Sequence[float], width: int) -> str:
    """Return busy shares (0 to 1) as a line of at most `width` block characters; a blank is an idle GPU."""
    size = max(1, min(width, len(shares)))
    strip: list[str] = []
    for index in range(size):
        part = shares[index * len(shares) // size : (index + 1) * len(shares) // size]
        busy = sum(part) / len(part) if part else 0.0
        strip.append(_BLOCKS[min(8, int(busy * 8 + 0.999))])
    return "".join(strip)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """Print headline, evidence and advice, each under its label."""
    _print_label(console, "Verdict")
    _print_wrapped(console, verdict.headline, _STYLES.get(verdict.kind, "bold"), mark="  ")
    for label, mark, lines, style in (
        ("Evidence", "  - ", verdict.evidence, ""),
        ("Advice", "  -> ", verdict.advice, "cyan"),
    ):
        if lines:
            _print_label(console, label)
        for line in lines:
            _print_wrapped(console, line, style, mark=mark)


def _print_label(console: Console, label: str) -> None:
    console.print(Text(label, style="bold"))


def _print_wrapped(console: Console, text: str, style: str = "", mark: str = "") -> None:
    """Print a paragraph after `mark`, with continuation lines indented by its width and no trailing blanks."""
    for number, line in enumerate(wrapped(text, max(1, console.width - len(mark)))):
        console.print(Text((" " * len(mark) if number else mark) + line, style=style), soft_wrap=True)


def print_summary(
    console: Console,
    summary: Summary,
    top: int = 15,
    sort_by: SortKey = "self",
    group_by: GroupBy | None = None,
) -> None:
    """Print verdict, warnings about the trace, its context, GPU timelines and tables."""
    sheets = all_sheets(summary, top, sort_by, group_by)
    print_verdict(console, summary.verdict)
    _print_label(console, "Trace")
    _print_wrapped(console, ", ".join(context_parts(summary)), mark="  ")
    for kind, sentence in remarks(summary):
        _print_wrapped(console, sentence, "dim" if kind == "info" else "yellow", mark=f"  {kind}: ")
    for device in shown_devices(summary):
        label = f"  GPU {device.id} " if len(summary.trace.ranks) < 2 else f"  rank {device.rank} GPU {device.id} "
        strip = timeline_strip(device.timeline, console.width - len(label) - 15)
        console.print(Text(f"{label}|{strip}| {device.busy_percent:.1f} % busy"), no_wrap=True)
    if left := len(summary.devices) - len(shown_devices(summary)):
        console.print(Text(f"  {left} more GPUs", style="dim"))
    if summary.comparison:
        _print_comparison(console, summary.comparison)
    for sheet in sheets:
        console.print()
        console.print(sheet_table(sheet, console.width), soft_wrap=True)
    for outlier in summary.steps.outliers:
        phase = visible(outlier.phase)
        console.print(
            Text(f"step {outlier.step} ({phase}): {duration(outlier.ms)}, {outlier.times_median}x the median")
        )


def _print_comparison(console: Console, comparison: TraceComparison) -> None:
    _print_label(console, "Compared with the baseline")
    _print_wrapped(console, comparison.headline, "bold", mark="  ")
    for cause in comparison.causes:
        _print_wrapped(console, f"{cause}.", mark="  ")
    for warning in comparison.warnings:
        _print_wrapped(console, warning, "yellow", mark="  warning: ")
