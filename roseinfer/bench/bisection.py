"""Search for the largest value that meets an objective: double it, then bisect."""

from collections.abc import Callable


def largest_that_meets(
    meets: Callable[[float], bool],
    *,
    start: float,
    lowest: float,
    highest: float,
    whole: bool = False,
    precision: float = 0.05,
    is_last: Callable[[float], bool] = lambda value: False,
) -> float | None:
    """Return the largest value from `lowest` to `highest` that meets the objective; None if `lowest` misses it.

    If a value misses the objective, all larger values are assumed to miss it. The result is a value that was tried.
    It is exact for `whole` numbers, else within the relative `precision`.

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
            value = max(value // 2 if whole else value / 2, lowest) if good is None else value
    while bad - good > (1 if whole else precision * good):
        middle = (good + bad) // 2 if whole else (good * bad) ** 0.5
        if meets(middle):
            good = middle
            if is_last(middle):
                return middle
        else:
            bad = middle
    return good
