"""Numbers for people: all digits before the point, and never an exponent."""

import numpy as np


def plain(value: float, digits: int | None = None) -> str:
    """`1048576`, `0.00005`, `12.35`: rounded to so many significant digits, or as short as says it exactly."""
    return np.format_float_positional(value, precision=digits, fractional=digits is None, trim="-")
