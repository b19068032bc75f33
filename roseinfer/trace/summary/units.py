"""Convert nanoseconds and shares to the units of a summary: milliseconds and percentages."""


def to_ms(nanoseconds: float) -> float:
    """Convert nanoseconds to milliseconds, rounded to whole nanoseconds."""
    return round(float(nanoseconds) / 1e6, 6)


def to_percent(part: float, whole: float) -> float:
    """Return `part` as a percentage of `whole`, with two decimals; 0 if `whole` is 0."""
    return round(100.0 * float(part) / float(whole), 2) if whole else 0.0
