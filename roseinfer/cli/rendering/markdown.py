"""A trace summary as Markdown, for a pull request."""

from roseinfer.cli.rendering.sheets import Sheet, all_sheets
from roseinfer.config import SortKey
from roseinfer.trace.naming import short_name
from roseinfer.trace.summary.trace_summary import Summary

_NAME_WIDTH = 72


def to_markdown(summary: Summary, top: int = 15, sort_by: SortKey = "self") -> str:
    """Return verdict, warnings and tables as Markdown, with long kernel names shortened."""
    parts = [f"### {_escape(summary.verdict.headline)}", ""]
    parts += [f"- {_escape(line)}" for line in summary.verdict.evidence]
    parts += [f"- **{_escape(line)}**" for line in summary.verdict.advice]
    if summary.trust:
        parts += ["", *(f"> - {remark.level}: {_escape(remark.message)}" for remark in summary.trust)]
    if summary.comparison:
        parts += ["", f"**{_escape(summary.comparison.headline)}**"]
        parts += ["", *(f"> - warning: {_escape(line)}" for line in summary.comparison.warnings)]
    for sheet in all_sheets(summary, top, sort_by):
        parts += ["", *_table(sheet)]
    return "\n".join(parts).rstrip() + "\n"


def _table(sheet: Sheet) -> list[str]:
    rows = [
        [
            f"`{_code(short_name(cell, _NAME_WIDTH))}`" if kind == "name" and cell else _escape(cell)
            for cell, kind in pairs
        ]
        for pairs in ([(cell, kind) for cell, (_, kind) in zip(row, sheet.columns, strict=True)] for row in sheet.rows)
    ]
    return [
        f"**{_escape(sheet.title)}**",
        "",
        "| " + " | ".join(title for title, _ in sheet.columns) + " |",
        "|" + "|".join(" ---: " if kind == "number" else " --- " for _, kind in sheet.columns) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def _code(text: str) -> str:
    return text.replace("`", "'").replace("|", "\\|").replace("\n", " ")


def _escape(text: str) -> str:
    for mark in ("\\", "|", "*", "_", "<", "`", "#", "["):
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", " ")
