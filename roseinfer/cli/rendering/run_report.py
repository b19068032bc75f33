"""The figures of one run as `label: value` lines, printed by `bench` and `profile`."""

from typing import TYPE_CHECKING

from roseinfer.cli import console

if TYPE_CHECKING:
    from roseinfer.workload.pass_report import Report


def print_run_report(report: "Report") -> None:
    """Print each figure on a line of its own, so that grep finds it."""
    console.stdout.print(f"Mode: {report.mode}", highlight=False)
    for label, value in report.lines():
        console.stdout.print(f"{label}: {value}", highlight=False)
