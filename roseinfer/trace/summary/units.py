"""Conversion of nanoseconds and shares into the units of a summary."""


def to_ms(nanoseconds: float) -> float:
    """Nanoseconds as milliseconds, without float noise behind the nanoseconds."""
    return round(float(nanoseconds) / 1e6, 6)


def to_percent(part: float, whole: float) -> float:
    """`part` of `whole` in percent; 0 of nothing."""
    return round(100.0 * float(part) / float(whole), 2) if whole else 0.0
