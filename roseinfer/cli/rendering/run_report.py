"""The report that `bench` and `profile` print."""

from typing import TYPE_CHECKING

from roseinfer.cli import console

if TYPE_CHECKING:
    from roseinfer.workload.report import Report


def print_report(report: "Report") -> None:
    """One line a figure, ready for grep."""
    console.stdout.print(f"Mode: {report.mode}", highlight=False)
    for label, value in report.lines():
        console.stdout.print(f"{label}: {value}", highlight=False)
