"""Options that accept several values, separated by commas."""

import math
from collections.abc import Callable
from typing import TypeVar

from roseinfer.errors import UsageError

T = TypeVar("T")


class OutOfRangeError(ValueError):
    """A value of the right type below its minimum; the message names the minimum."""


def listed(option: str, text: str | None, parse: Callable[[str], T], what: str) -> list[T]:
    """Return the values of `--option 1,2,3`; an empty list if the option was not given.

    Raises UsageError if `parse` raises ValueError for a value; `what` names the values it accepts.
    """
    if text is None:
        return []
    values = []
    for part in (part.strip() for part in text.split(",")):
        try:
            values.append(parse(part))
        except OutOfRangeError as error:
            raise UsageError(f"invalid {option} {part}: give {error}") from None
        except ValueError:
            raise UsageError(f"invalid {option} {text!r}: give {what} separated by commas, such as 1,4,16") from None
    if len(set(values)) < len(values):
        raise UsageError(f"invalid {option} {text!r}: it holds a value twice: give each value once")
    return values


def positive_int(text: str) -> int:
    """Parse a whole number of 1 or more."""
    return _at_least(1, int(text))


def whole_number(text: str) -> int:
    """Parse a whole number of 0 or more."""
    return _at_least(0, int(text))


def rate(text: str) -> float | None:
    """Parse a rate above 0; None for `inf`, with which all requests arrive at once."""
    value = float(text)
    if math.isnan(value):
        raise ValueError(text)
    if value <= 0:
        raise OutOfRangeError("a rate above 0, or inf for all requests at once")
    return None if math.isinf(value) else value


def _at_least(lowest: int, value: int) -> int:
    if value < lowest:
        raise OutOfRangeError(f"a whole number of {lowest} or more")
    return value
