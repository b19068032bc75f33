"""Options that take several values, separated by commas."""

from collections.abc import Callable
from typing import TypeVar

from roseinfer.errors import UsageError

T = TypeVar("T")


def listed(option: str, text: str | None, parse: Callable[[str], T], what: str) -> list[T]:
    """The values of `--option 1,2,3`, none for an option that was not given.

    Raises UsageError where `parse` refuses one by a ValueError; `what` says what it takes.
    """
    if text is None:
        return []
    try:
        values = [parse(part.strip()) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text!r} is no list of {what}: write one, or several like 1,4,16") from None
    if len(set(values)) < len(values):
        raise UsageError(f"{option} {text!r} names a value twice")
    return values


def positive_int(text: str) -> int:
    """A whole number of 1 or more."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def whole_number(text: str) -> int:
    """0 or more."""
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def positive_float(text: str) -> float:
    """A finite number above 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError(text)
    return float(text)
