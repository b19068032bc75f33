"""A trace's summary as rich tables; shared by the commands `summarize` and `profile`."""

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from roseinfer.trace.naming import short_name
from roseinfer.trace.summary import OpSummary, Summary

SortBy = Literal["self", "total", "calls"]

_MIN_NAME = 24


def milliseconds(value: float) -> str:
    """A time at about four digits, in ms."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def ops_table(summary: Summary, top: int = 15, sort_by: SortBy = "self", *, width: int = 100) -> Table:
    """The `top` operators of the CPU and the `top` kernels of the GPU, in a table `width` columns wide at most."""
    devices = [device for device in ("gpu", "cpu") if any(op.device == device for op in summary.top_ops)]
    table = _table(f"Top operators and kernels by {'calls' if sort_by == 'calls' else sort_by + ' time'}")
    table.add_column("Name", no_wrap=True, overflow="ellipsis")
    table.add_column("On", no_wrap=True)
    for title in ("Calls", "Self ms", "Self %", "Total ms", "Mean us"):
        table.add_column(title, justify="right", no_wrap=True)
    name_width = max(_MIN_NAME, width - 55)
    for device in devices:
        rows = sorted((op for op in summary.top_ops if op.device == device), key=lambda op: -_key(op, sort_by))
        for op in rows[:top]:
            table.add_row(
                Text(short_name(op.name, name_width)),
                op.device.upper(),
                f"{op.calls:,}",
                milliseconds(op.self_ms),
                f"{op.percent:.1f}",
                milliseconds(op.total_ms),
                f"{1000 * op.total_ms / op.calls:,.1f}",
            )
        left = rows[top:]
        if left:
            table.add_row(
                Text(f"{len(left)} more", style="dim"),
                device.upper(),
                f"{sum(op.calls for op in left):,}",
                milliseconds(sum(op.self_ms for op in left)),
                f"{sum(op.percent for op in left):.1f}",
                "",
                "",
                style="dim",
            )
        table.add_section()
    return table


def spans_table(summary: Summary, *, width: int = 100) -> Table:
    """Where the program's own named ranges spent their time."""
    table = _table("Spans")
    table.add_column("Span", no_wrap=True, overflow="ellipsis")
    for title in ("Calls", "Wall ms", "Self ms", "Mean ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for span in summary.spans:
        table.add_row(
            Text(short_name(span.name, max(_MIN_NAME, width - 45))),
            f"{span.calls:,}",
            milliseconds(span.wall_ms),
            milliseconds(span.self_wall_ms),
            milliseconds(span.wall_ms / span.calls),
        )
    return table


def steps_table(summary: Summary) -> Table:
    """The steps of each phase."""
    table = _table(f"Steps, from {summary.steps.source} spans")
    table.add_column("Phase", no_wrap=True)
    for title in ("Steps", "Median ms", "p90 ms", "Tokens/step"):
        table.add_column(title, justify="right", no_wrap=True)
    for phase, row in summary.steps.phases.items():
        tokens = "?" if row.tokens_per_step is None else f"{row.tokens_per_step:,.1f}"
        table.add_row(phase, f"{row.count:,}", milliseconds(row.median_ms), milliseconds(row.p90_ms), tokens)
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1),
        min_width=len(title),
    )


def _key(op: OpSummary, sort_by: SortBy) -> float:
    return {"self": op.self_ms, "total": op.total_ms, "calls": float(op.calls)}[sort_by]
