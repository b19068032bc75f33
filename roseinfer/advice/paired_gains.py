"""Decide from interleaved measurements whether a change helped. Pure arithmetic, without an engine.

A round measures every contender once, in shuffled order, so that a drift of the machine hits all of them. The unit is
the logarithm of the ratio of two costs of one round: the reference's by the candidate's. A second process with the
reference's own settings, the control, shows by how much two equal contenders differ (an A/A test).
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

import msgspec

Outcome = Literal["helped", "no clear change", "slower"]

MIN_PAIRS = 3
MIN_GAIN_PERCENT = 2.0
"""Smallest saving that counts. Processes with equal settings may differ by 1 %, for reasons such as the placement of
memory, which more passes of the same processes do not average out."""

_QUANTILES = (318.3, 22.33, 10.21, 7.173, 5.893, 5.208, 4.785, 4.501, 4.297, 4.144, 4.025, 3.930, 3.852, 3.787, 3.733)
"""0.999 quantiles of Student's t for 1, 2, ... degrees of freedom. More degrees use the last, which is larger."""


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """Share of the reference's cost that a candidate saves, with an interval of 99.8 % confidence."""

    saves_percent: float
    """Saved share; negative if the candidate costs more."""
    low_percent: float
    high_percent: float
    pairs: int
    """Number of rounds that measured both."""

    @property
    def noise_percent(self) -> float:
        """Half the width of the interval."""
        return (self.high_percent - self.low_percent) / 2

    @property
    def speedup(self) -> float:
        """The reference's cost divided by the candidate's."""
        return 100 / (100 - self.saves_percent)


def control_spread(reference: Sequence[float], control: Sequence[float]) -> float:
    """Return the root mean square of the log ratios of equal contenders, of paired costs; 0 without any."""
    return math.sqrt(fmean(log * log for log in _logs(reference, control))) if reference else 0.0


def paired_gain(reference: Sequence[float], candidate: Sequence[float], spread: float = 0.0) -> Gain | None:
    """Return what the candidate saves, from costs per round; None for fewer than two rounds.

    The interval is Student's t of the log ratios. Their standard deviation is at least `spread`, that of equal
    contenders: a few rounds that happen to agree are no evidence of a quiet machine.
    """
    logs = _logs(reference, candidate)
    if len(logs) < 2:
        return None
    middle = fmean(logs)
    deviation = max(stdev(logs), spread)
    reach = _QUANTILES[min(len(logs) - 2, len(_QUANTILES) - 1)] * deviation / math.sqrt(len(logs))
    low, mid, high = (_saved_percent(log) for log in (middle - reach, middle, middle + reach))
    return Gain(saves_percent=mid, low_percent=low, high_percent=high, pairs=len(logs))


def chained(gains: Sequence[Gain]) -> Gain:
    """Return what changes save that were measured one on top of another.

    Costs multiply, so logarithms add up; their errors are independent, so half widths add up as squares do.
    """
    middle = sum(math.log(gain.speedup) for gain in gains)
    down = math.sqrt(sum((math.log(gain.speedup) - _log_of(gain.low_percent)) ** 2 for gain in gains))
    up = math.sqrt(sum((_log_of(gain.high_percent) - math.log(gain.speedup)) ** 2 for gain in gains))
    low, mid, high = (_saved_percent(log) for log in (middle - down, middle, middle + up))
    return Gain(saves_percent=mid, low_percent=low, high_percent=high, pairs=min(gain.pairs for gain in gains))


def outcome(gain: Gain, spread: float = 0.0) -> Outcome:
    """Return whether a change helped: its interval excludes zero, and it exceeds `spread` and the smallest gain.

    A change is slower by the same rule in the other direction. Fewer than three rounds decide nothing.
    """
    if gain.pairs < MIN_PAIRS:
        return "no clear change"
    size = abs(math.log(gain.speedup))
    is_clear = size > spread and size > -math.log(1 - MIN_GAIN_PERCENT / 100)
    if is_clear and gain.low_percent > 0:
        return "helped"
    return "slower" if is_clear and gain.high_percent < 0 else "no clear change"


def is_decided(gain: Gain, spread: float = 0.0) -> bool:
    """Return whether more rounds cannot change the outcome much: it is clear, or a gain that counts is excluded."""
    if gain.pairs < MIN_PAIRS:
        return False
    return outcome(gain, spread) != "no clear change" or gain.high_percent < MIN_GAIN_PERCENT


def _logs(reference: Sequence[float], candidate: Sequence[float]) -> list[float]:
    return [math.log(before / after) for before, after in zip(reference, candidate, strict=True)]


def _log_of(saved_percent: float) -> float:
    """Return the logarithm of a speedup, the inverse of `_saved_percent`."""
    return -math.log(1 - saved_percent / 100) if saved_percent < 100 else math.inf


def _saved_percent(log: float) -> float:
    return 100 * (1 - math.exp(-log)) if log > -50 else -math.inf
