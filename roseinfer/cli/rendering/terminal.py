"""A trace's summary on a terminal; shared by the commands `summarize` and `profile`."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from roseinfer.cli.rendering.sheets import Sheet, SortBy, all_sheets, op_sheet, span_sheet
from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary import Summary, Verdict

_MIN_NAME = 12
_BLOCKS = " ▁▂▃▄▅▆▇█"
_STYLES = {"host_bound": "bold red", "gpu_bound": "bold green", "balanced": "bold yellow"}


class _Ragged(Table):
    """A table whose lines end where their text does, without blanks up to its width."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table's own lines, cut."""
        parts = list(super().__rich_console__(console, options))
        for line in Segment.split_lines(part for part in parts if isinstance(part, Segment)):
            while line and not line[-1].text.strip():
                line.pop()
            yield from line[:-1]
            if line:
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def ops_table(summary: Summary, top: int = 15, sort_by: SortBy = "self", *, width: int = 100) -> Table:
    """The `top` operators of the CPU and the `top` kernels of the GPU, in a table `width` columns wide at most."""
    return sheet_table(op_sheet(summary, top, sort_by), width)


def spans_table(summary: Summary, *, width: int = 100) -> Table:
    """Where the program's own named ranges spent their time."""
    return sheet_table(span_sheet(summary), width)


def sheet_table(sheet: Sheet, width: int) -> Table:
    """A sheet as a table at most `width` columns wide: names share what the other columns leave."""
    table = _Ragged(
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
    room = _name_widths(sheet, width)
    for row in sheet.rows:
        table.add_row(*(Text(short_name(cell, size) if size else cell) for cell, size in zip(row, room, strict=True)))
    return table


def _name_widths(sheet: Sheet, width: int) -> list[int]:
    """[columns] the room for each name column, 0 for the others."""
    longest = [
        max(len(title), *(len(row[index]) for row in sheet.rows), 0) for index, (title, _) in enumerate(sheet.columns)
    ]
    names = [index for index, (_, kind) in enumerate(sheet.columns) if kind == "name"]
    taken = sum(size for index, size in enumerate(longest) if index not in names) + 2 * len(longest) + 1
    room = [0] * len(longest)
    left = width - taken
    for share, index in enumerate(sorted(names, key=lambda index: longest[index])):
        room[index] = max(_MIN_NAME, min(longest[index], left // (len(names) - share)))
        left -= room[index]
    return room


def timeline_strip(shares: Sequence[float], width: int) -> str:
    """Busy shares as one line of blocks, `width` characters at most; an empty place is an idle GPU."""
    size = max(1, min(width, len(shares)))
    strip: list[str] = []
    for index in range(size):
        part = shares[index * len(shares) // size : (index + 1) * len(shares) // size]
        busy = sum(part) / len(part) if part else 0.0
        strip.append(_BLOCKS[min(8, int(busy * 8 + 0.999))])
    return "".join(strip)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """The answer first: headline, evidence, advice."""
    _print_wrapped(console, verdict.headline, _STYLES.get(verdict.kind, "bold"))
    for line in verdict.evidence:
        _print_wrapped(console, line, mark="  - ")
    for line in verdict.advice:
        _print_wrapped(console, line, "cyan", mark="  -> ")


def _print_wrapped(console: Console, text: str, style: str = "", mark: str = "") -> None:
    """A paragraph behind a mark; its further lines begin below the first one's text, and none ends in blanks."""
    lines = Text(text, style=style).wrap(console, max(1, console.width - len(mark)))
    for number, line in enumerate(lines):
        line.rstrip()
        console.print(Text(" " * len(mark) if number else mark, style=style) + line, soft_wrap=True)


def print_report(console: Console, summary: Summary, top: int = 15, sort_by: SortBy = "self") -> None:
    """Everything about a trace that fits a terminal: verdict, doubts, timeline, tables."""
    print_verdict(console, summary.verdict)
    for doubt in summary.trust:
        style = "yellow" if doubt.level == "warning" else "dim"
        _print_wrapped(console, doubt.message, style, mark=f"  {doubt.level}: ")
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
