"""Options that take several values, separated by commas."""

import math
from collections.abc import Callable
from typing import TypeVar

from roseinfer.errors import UsageError

T = TypeVar("T")


class OutOfRangeError(ValueError):
    """A value of the right kind that is too small; its text says what is large enough."""


def listed(option: str, text: str | None, parse: Callable[[str], T], what: str) -> list[T]:
    """The values of `--option 1,2,3`, none for an option that was not given.

    Raises UsageError where `parse` refuses one by a ValueError; `what` says what it takes.
    """
    if text is None:
        return []
    values = []
    for part in (part.strip() for part in text.split(",")):
        try:
            values.append(parse(part))
        except OutOfRangeError as error:
            raise UsageError(f"{option} {part}: it must be {error}") from None
        except ValueError:
            raise UsageError(f"{option} {text!r} is no list of {what}: write one, or several like 1,4,16") from None
    if len(set(values)) < len(values):
        raise UsageError(f"{option} {text!r} names a value twice")
    return values


def positive_int(text: str) -> int:
    """A whole number of 1 or more."""
    return _at_least(1, int(text))


def whole_number(text: str) -> int:
    """0 or more."""
    return _at_least(0, int(text))


def rate(text: str) -> float | None:
    """A number above 0; `inf` is None, which is no rate: all at once."""
    value = float(text)
    if math.isnan(value):
        raise ValueError(text)
    if value <= 0:
        raise OutOfRangeError("above 0; inf, or leaving it out, is all at once")
    return None if math.isinf(value) else value


def _at_least(lowest: int, value: int) -> int:
    if value < lowest:
        raise OutOfRangeError(f"{lowest} or more")
    return value
