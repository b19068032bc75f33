"""Decimal notation of numbers, without exponents."""

import numpy as np


def plain(value: float, digits: int | None = None) -> str:
    """Format a number without an exponent: `1048576`, `0.00005`, `12.35`.

    `digits` rounds to significant digits. None uses as many as the exact value needs.
    """
    return np.format_float_positional(value, precision=digits, fractional=digits is None, trim="-")
