"""`--fail-above`, the limit of a comparison: the option and its value."""

import math
from typing import Annotated

import typer

from roseinfer.errors import UsageError

FailAbove = Annotated[
    str | None,
    typer.Option(
        "--fail-above",
        metavar="PERCENT",
        help="Exit with code 3 if a compared figure is worse by more than this, such as 5%.",
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
