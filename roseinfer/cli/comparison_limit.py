"""`--fail-above`, the limit of a comparison: the option, its value, and the exit code of a change past it."""

import math
from typing import Annotated

import typer

from roseinfer.cli import exit_codes
from roseinfer.errors import UsageError

FailAbove = Annotated[
    str | None,
    typer.Option(
        "--fail-above",
        metavar="PERCENT",
        help="Exit with code 3 if a figure is worse than the baseline's by more than this, such as 5%.",
        rich_help_panel="Comparison",
    ),
]


def parse_percent(text: str) -> float:
    """Return the percentage that `--fail-above` names: `5%` or `5`. Raises UsageError for anything else."""
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent < math.inf:
        raise UsageError(f"invalid --fail-above {text!r}: give a percentage, such as 5%")
    return percent


def comparison_exit_code(is_past_limit: bool) -> int:
    """Return the exit code of a comparison: REGRESSION for a change past the limit, else 0."""
    return exit_codes.REGRESSION if is_past_limit else 0
