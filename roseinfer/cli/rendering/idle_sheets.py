"""Sheets with the places of a time budget: findings, where idle time is caused, and what is exposed."""

from collections.abc import Sequence

from roseinfer.cli.rendering.budget_sheets import PARTS
from roseinfer.cli.rendering.table_sheet import Sheet, milliseconds, sheet
from roseinfer.trace.summary.budget_structs import BudgetSummary, IdlePlace
from roseinfer.trace.summary.finding_structs import Finding, Place

_CAUSES = {part.key: part.label.removeprefix("host: ") for part in PARTS}


def finding_sheet(findings: Sequence[Finding]) -> Sheet:
    """Return what could be reduced, with an upper bound of the wall time that each remedy saves."""
    rows = [
        [one.id.replace("_", " "), _place(one.where), f"{one.share_percent:.1f}", milliseconds(one.saves_ms)]
        for one in findings
    ]
    return sheet("Findings, and what their remedies save at most", ("-Finding", "*Where", "Wall %", "Saves ms"), rows)


def _place(where: Place) -> str:
    return where.file or where.kernel or where.operator or where.span or ""


def idle_sheet(budget: BudgetSummary | None, top: int) -> Sheet:
    """Return the places in the program that cause most idle time."""
    rows = [
        [
            _CAUSES[place.cause],
            _where(place),
            place.span,
            milliseconds(place.ms),
            f"{place.percent:.1f}",
            f"{place.gaps:,}",
            milliseconds(place.longest_ms),
        ]
        for place in (budget.idle[:top] if budget else [])
    ]
    columns = ("-Cause", "*Host in", "*Span", "Ms", "Wall %", "Gaps", "Longest")
    return sheet("Causes of idle time", columns, rows)


def _where(place: IdlePlace) -> str:
    name = place.file or place.name
    return f"{name} in {place.operator}" if place.operator and place.operator != name else name


def exposed_sheet(budget: BudgetSummary | None, top: int) -> Sheet:
    """Return the collectives and copies that ran while no other kernel did."""
    rows = [
        [
            work.name,
            work.span,
            f"{work.count:,}",
            milliseconds(work.total_ms),
            milliseconds(work.exposed_ms),
            f"{work.percent:.1f}",
        ]
        for work in (budget.exposed[:top] if budget else [])
    ]
    columns = ("*Name", "*Span", "Count", "Total ms", "Exposed ms", "Wall %")
    return sheet("Exposed communication and copies", columns, rows)
