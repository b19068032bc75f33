"""Limits on the lines of a verdict."""

from collections.abc import Iterable

MAX_EVIDENCE = 5
MAX_ADVICE = 6


def distinct_lines(lines: Iterable[str], most: int) -> list[str]:
    """Return the first `most` different lines."""
    return list(dict.fromkeys(lines))[:most]
