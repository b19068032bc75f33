"""A trace summary as Markdown that stands alone in a pull request."""

from roseinfer.cli.rendering.comparison_sheets import comparison_sheets
from roseinfer.cli.rendering.recording_context import context_parts, remarks, trace_name
from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.cli.rendering.table_sheet import Sheet
from roseinfer.cli.rendering.work_groups import GroupBy
from roseinfer.cli.visible_text import visible
from roseinfer.config import SortKey
from roseinfer.trace.naming import short_name
from roseinfer.trace.summary.trace_summary import Summary

_NAME_WIDTH = 72
_OPEN_SHEETS = ("Time budget", "Steps by phase")
"""Starts of the titles of tables that are shown at once. The others are folded."""


def to_markdown(
    summary: Summary,
    top: int = 15,
    sort_by: SortKey = "self",
    *,
    group_by: GroupBy | None = None,
    command: str | None = None,
) -> str:
    """Return title, context, verdict, warnings and tables as Markdown, with long kernel names shortened.

    `command` is the command line that made the document, shown at its end.
    """
    context = " · ".join(escaped(part) for part in context_parts(summary))
    parts = [f"### `{code(trace_name(summary))}`: where the time goes", "", context]
    parts += ["", f"**Verdict: {escaped(summary.verdict.headline)}**"]
    parts += _points("Evidence", summary.verdict.evidence)
    parts += _points("Advice", summary.verdict.advice)
    if notes := remarks(summary):
        parts += ["", *(f"> - {kind}: {escaped(sentence)}" for kind, sentence in notes)]
    shown = all_sheets(summary, top, sort_by, group_by)
    if summary.comparison:
        baseline = f"Compared with `{code(summary.comparison.baseline)}`"
        parts += ["", f"**{baseline}: {escaped(summary.comparison.headline)}**"]
        parts += ["", *(f"- {escaped(cause)}." for cause in summary.comparison.causes)]
        parts += ["", *(f"> - warning: {escaped(line)}" for line in summary.comparison.warnings)]
        titles = {sheet.title for sheet in comparison_sheets(summary.comparison, top)}
    else:
        titles = set()
    is_open = [sheet.title in titles or sheet.title.startswith(_OPEN_SHEETS) for sheet in shown]
    for sheet, opened in zip(shown, is_open, strict=True):
        if opened:
            parts += ["", *_table(sheet)]
    if not all(is_open):
        parts += ["", "<details><summary>All tables</summary>"]
        for sheet, opened in zip(shown, is_open, strict=True):
            if not opened:
                parts += ["", *_table(sheet)]
        parts += ["", "</details>"]
    parts += command_block(command)
    return "\n".join(parts).rstrip() + "\n"


def command_block(command: str | None) -> list[str]:
    """Return the lines of a code block with the command, after an empty line; no lines without a command."""
    return [] if command is None else ["", "```console", f"$ {visible(' '.join(command.splitlines()))}", "```"]


def _points(label: str, lines: list[str]) -> list[str]:
    return ["", f"{label}:", "", *(f"- {escaped(line)}" for line in lines)] if lines else []


def _table(sheet: Sheet) -> list[str]:
    sheet = sheet.without_bars()
    rows = [
        [
            f"`{code(short_name(cell, _NAME_WIDTH))}`" if kind == "name" and cell else escaped(cell)
            for cell, kind in pairs
        ]
        for pairs in ([(cell, kind) for cell, (_, kind) in zip(row, sheet.columns, strict=True)] for row in sheet.rows)
    ]
    return [
        f"**{escaped(sheet.title)}**",
        "",
        "| " + " | ".join(title for title, _ in sheet.columns) + " |",
        "|" + "|".join(" ---: " if kind in ("number", "change") else " --- " for _, kind in sheet.columns) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def code(text: str) -> str:
    """Return a text for a code span inside a table."""
    return visible(text).replace("`", "'").replace("|", "\\|").replace("\n", " ")


def escaped(text: str) -> str:
    """Return a text whose characters mean themselves in Markdown, on one line."""
    text = visible(text)
    for mark in ("\\", "|", "*", "_", "<", "`", "#", "["):
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
