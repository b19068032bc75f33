"""How long prompts and completions are: a number, or a distribution to draw from."""

import math
import random
from typing import Protocol

import msgspec

from roseinfer.errors import UsageError


class Lengths(Protocol):
    """A source of token counts."""

    def draw(self, rng: random.Random) -> int:
        """The next one, 1 or more."""
        ...


class Fixed(msgspec.Struct, frozen=True):
    """Always the same; draws nothing from the generator."""

    tokens: int

    def draw(self, rng: random.Random) -> int:
        return self.tokens


class Uniform(msgspec.Struct, frozen=True):
    """Every length from `low` to `high`, both included, as likely as the next."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        return rng.randint(self.low, self.high)


class LogNormal(msgspec.Struct, frozen=True):
    """Many short and a few long ones, as people write them; never more than `high`."""

    median: float
    sigma: float
    """Standard deviation of the length's logarithm: 68 % lie within a factor of e^sigma of the median."""
    high: int | None = None

    def draw(self, rng: random.Random) -> int:
        tokens = max(round(rng.lognormvariate(math.log(self.median), self.sigma)), 1)
        return tokens if self.high is None else min(tokens, self.high)


def parse_lengths(key: str, spec: int | str) -> Lengths:
    """`128`; `100..1024`, uniform; `lognormal:512:0.8`, by median and sigma, perhaps with a largest: `:4096`.

    Raises UsageError that names `key`.
    """
    lengths = _parse(str(spec).strip())
    if lengths is None:
        raise UsageError(
            f"{key} {spec!r} is no length: write 128, 100..1024, lognormal:MEDIAN:SIGMA or lognormal:MEDIAN:SIGMA:MAX"
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
