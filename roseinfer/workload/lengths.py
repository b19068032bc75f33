"""Lengths of drawn prompts and completions: a fixed number of tokens, or a distribution of it."""

import math
import random
from typing import Protocol

import msgspec

from roseinfer.errors import UsageError


class Lengths(Protocol):
    """A distribution of token counts."""

    def draw(self, rng: random.Random) -> int:
        """Return the next token count, at least 1."""
        ...


class Fixed(msgspec.Struct, frozen=True):
    """A constant length. `draw` leaves the generator unchanged."""

    tokens: int

    def draw(self, rng: random.Random) -> int:
        return self.tokens


class Uniform(msgspec.Struct, frozen=True):
    """A uniform distribution over the lengths from `low` to `high`, both included."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.low, self.high)


class LogNormal(msgspec.Struct, frozen=True):
    """A log-normal distribution: many short lengths and a few long ones, as in chat traffic; at most `high`."""

    median: float
    sigma: float
    """Standard deviation of the length's logarithm: 68 % of lengths are within a factor of e^sigma of the median."""
    high: int | None = None

    def draw(self, rng: random.Random) -> int:
        tokens = max(round(rng.lognormvariate(math.log(self.median), self.sigma)), 1)
        return tokens if self.high is None else min(tokens, self.high)


def parse_lengths(option: str, spec: int | str) -> Lengths:
    """Parse a length: `128` is fixed, `100..1024` is uniform, `lognormal:MEDIAN:SIGMA[:MAX]` is log-normal.

    Raises UsageError, naming `option`, if `spec` has none of these forms.
    """
    lengths = _parse(str(spec).strip())
    if lengths is None:
        raise UsageError(
            f"invalid {option} {str(spec)!r}: give a number of tokens such as 128, a range such as 100..1024, "
            "or lognormal:MEDIAN:SIGMA[:MAX]"
        )
    return lengths


def _parse(spec: str) -> Lengths | None:
    try:
        if spec.startswith("lognormal:"):
            median, sigma, *high = spec.split(":")[1:]
            lengths = LogNormal(float(median), float(sigma), int(high[0]) if high else None)
            valid = len(high) <= 1 and 1 <= lengths.median < math.inf and 0 <= lengths.sigma <= 10
            return lengths if valid and (lengths.high is None or lengths.high >= 1) else None
        if ".." in spec:
            low, high_end = map(int, spec.split(".."))
            return Uniform(low, high_end) if 1 <= low <= high_end else None
        return Fixed(int(spec)) if int(spec) >= 1 else None
    except (ValueError, OverflowError):
        return None
