"""A trace summary on a terminal, printed by `summarize` and `profile`."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from roseinfer.cli.rendering.sheets import Sheet, all_sheets, op_sheet, span_sheet
from roseinfer.config import SortKey
from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.trace_summary import Summary, Verdict

_MIN_NAME = 12
_BLOCKS = " ▁▂▃▄▅▆▇█"
_STYLES = {"host_bound": "bold red", "gpu_bound": "bold green", "balanced": "bold yellow"}


class _RaggedTable(Table):
    """A table whose lines have no trailing blanks."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the table without their trailing blanks."""
        parts = list(super().__rich_console__(console, options))
        for line in Segment.split_lines(part for part in parts if isinstance(part, Segment)):
            while line and not line[-1].text.strip():
                line.pop()
            yield from line[:-1]
            if line:
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def ops_table(summary: Summary, top: int = 15, sort_by: SortKey = "self", *, width: int = 100) -> Table:
    """Return the `top` CPU operators and the `top` GPU kernels, in a table of at most `width` columns."""
    return sheet_table(op_sheet(summary, top, sort_by), width)


def spans_table(summary: Summary, *, width: int = 100) -> Table:
    """Return the time of each named range of the program, in a table of at most `width` columns."""
    return sheet_table(span_sheet(summary), width)


def sheet_table(sheet: Sheet, width: int) -> Table:
    """Return a sheet as a table of at most `width` columns. Name columns share the width that the others leave."""
    table = _RaggedTable(
        title=Text(sheet.title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1),
        min_width=min(len(sheet.title), width),
    )
    for title, kind in sheet.columns:
        table.add_column(title, justify="right" if kind == "number" else "left", no_wrap=True, overflow="ellipsis")
    widths = _name_widths(sheet, width)
    for row in sheet.rows:
        table.add_row(*(Text(short_name(cell, size) if size else cell) for cell, size in zip(row, widths, strict=True)))
    return table


def _name_widths(sheet: Sheet, width: int) -> list[int]:
    """Return the width of each name column, and 0 for the other columns."""
    longest = [
        max(len(title), *(len(row[index]) for row in sheet.rows), 0) for index, (title, _) in enumerate(sheet.columns)
    ]
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
    """Print the verdict: headline, evidence, advice."""
    _print_wrapped(console, verdict.headline, _STYLES.get(verdict.kind, "bold"))
    for line in verdict.evidence:
        _print_wrapped(console, line, mark="  - ")
    for line in verdict.advice:
        _print_wrapped(console, line, "cyan", mark="  -> ")


def _print_wrapped(console: Console, text: str, style: str = "", mark: str = "") -> None:
    """Print a paragraph after `mark`, with continuation lines indented by its width and no trailing blanks."""
    lines = Text(text, style=style).wrap(console, max(1, console.width - len(mark)))
    for number, line in enumerate(lines):
        line.rstrip()
        console.print(Text(" " * len(mark) if number else mark, style=style) + line, soft_wrap=True)


def print_summary(console: Console, summary: Summary, top: int = 15, sort_by: SortKey = "self") -> None:
    """Print verdict, warnings about the trace, GPU timelines and tables."""
    print_verdict(console, summary.verdict)
    for remark in summary.trust:
        style = "yellow" if remark.level == "warning" else "dim"
        _print_wrapped(console, remark.message, style, mark=f"  {remark.level}: ")
    for device in summary.devices:
        label = f"GPU {device.id} " if len(summary.trace.ranks) < 2 else f"rank {device.rank} GPU {device.id} "
        strip = timeline_strip(device.timeline, console.width - len(label) - 15)
        console.print(Text(f"{label}|{strip}| {device.busy_percent:.1f} % busy"), no_wrap=True)
    if summary.comparison:
        _print_wrapped(console, summary.comparison.headline, "bold")
        for warning in summary.comparison.warnings:
            _print_wrapped(console, warning, "yellow", mark="  warning: ")
    for sheet in all_sheets(summary, top, sort_by):
        console.print()
        console.print(sheet_table(sheet, console.width))
    for outlier in summary.steps.outliers:
        console.print(
            Text(f"step {outlier.step} ({outlier.phase}): {duration(outlier.ms)}, {outlier.times_median}x the median")
        )
