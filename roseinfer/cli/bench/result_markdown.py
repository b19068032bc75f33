"""Benchmark results as Markdown that stands alone in a pull request."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from roseinfer.cli.bench.result_context import context_parts, headline
from roseinfer.cli.bench.result_tables import (
    CHANGE_COLUMNS,
    LEFT_COLUMNS,
    RUN_COLUMNS,
    RUN_TITLE,
    SPEED_COLUMNS,
    change_rows,
    markdown_table,
    run_rows,
    speed_rows,
)
from roseinfer.cli.rendering.markdown import command_block, escaped

if TYPE_CHECKING:
    from roseinfer.bench.results import BenchResults, Comparison


def bench_markdown(results: "BenchResults", remarks: Sequence[str], grid: bool, command: str | None) -> str:
    """Return title, context, result, tables, remarks and command; with `grid`, a table like llama-bench's too."""
    parts = [f"### Benchmark of {escaped(results.model.name)}", ""]
    parts += [" · ".join(escaped(part) for part in context_parts(results)), ""]
    label = "Result" if results.comparison is None else "Verdict"
    parts += [f"**{label}: {escaped(headline(results))}**"]
    if results.comparison is not None:
        parts += ["", *_compared(results.comparison)]
    if grid:
        parts += ["", markdown_table(SPEED_COLUMNS, speed_rows(results), LEFT_COLUMNS)]
    parts += ["", RUN_TITLE, "", markdown_table(RUN_COLUMNS, run_rows(results.runs))]
    if remarks:
        parts += ["", *(f"- {escaped(line)}" for line in remarks)]
    return "\n".join([*parts, *command_block(command)])


def _compared(comparison: "Comparison") -> list[str]:
    rows = change_rows(comparison.changes, comparison.limit_percent)
    differences = [f"- not the same as the baseline: {escaped(line)}" for line in comparison.differences]
    title = f"Compared with `{comparison.baseline}`:"
    return [title, "", *differences, *([""] * bool(differences)), markdown_table(CHANGE_COLUMNS, rows, left=2)]
