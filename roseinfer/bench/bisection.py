"""Searches for the largest value that meets an objective."""

from collections.abc import Callable


def largest_whole_that_meets(meets: Callable[[int], bool], *, highest: int) -> int | None:
    """Return the largest whole number up to `highest` that meets the objective; None if none that was tried does.

    Small numbers may miss the objective, too: requests that all arrive at once wait longest for the smallest batch.
    `highest` and the powers of two below it are tried in descending order, until one meets the objective. Between that
    one and the number tried before it, larger numbers are assumed to be worse.
    """
    good, bad = highest, highest + 1
    while not meets(good):
        if good == 1:
            return None
        good, bad = 1 << ((good - 1).bit_length() - 1), good
    while bad - good > 1:
        middle = (good + bad) // 2
        if meets(middle):
            good = middle
        else:
            bad = middle
    return good


def largest_that_meets(
    meets: Callable[[float], bool],
    *,
    start: float,
    lowest: float,
    highest: float,
    precision: float = 0.05,
    is_last: Callable[[float], bool] = lambda value: False,
) -> float | None:
    """Return the largest value from `lowest` to `highest` that meets the objective; None if `lowest` misses it.

    The value is doubled or halved from `start`, then bisected. If a value misses the objective, all larger values are
    assumed to miss it. The result is a value that was tried, within the relative `precision`.

    `is_last` is called with the value just tried, and ends the search early. True means that no further value needs to
    be tried: no larger one after a value that met the objective, no smaller one after a value that missed it.
    """
    value = min(max(start, lowest), highest)
    good: float | None = None
    bad: float | None = None
    while good is None or bad is None:
        if meets(value):
            good = value
            if value >= highest or is_last(value):
                return value
            value = min(2 * value, highest) if bad is None else value
        else:
            bad = value
            if value <= lowest or (good is None and is_last(value)):
                return None
            value = max(value / 2, lowest) if good is None else value
    while bad - good > precision * good:
        middle: float = (good * bad) ** 0.5
        if meets(middle):
            good = middle
            if is_last(middle):
                return middle
        else:
            bad = middle
    return good
