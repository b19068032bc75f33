"""The largest value that still meets an objective, by doubling and then halving the gap."""

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
    """Of the values from `lowest` to `highest`, the largest that meets the objective; None when not even the lowest.

    Takes it for granted that a value which misses is missed by all larger ones. Exact for `whole` numbers, else
    within `precision` of the answer, which is itself a value that was tried. `is_last` is asked about a value that
    was just tried: true where no value beyond it, upwards of one that met or downwards of one that missed, would
    turn out otherwise.
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
