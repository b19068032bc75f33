"""The statistics of paired measurements."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.advice.paired_gains import (
    MIN_GAIN_PERCENT,
    MIN_PAIRS,
    chained,
    control_spread,
    is_decided,
    outcome,
    paired_gain,
)

costs = st.lists(st.floats(1e-3, 1e3), min_size=MIN_PAIRS, max_size=20)
pairs = st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=2, max_size=20)
spreads = st.floats(0, 1)


@given(pairs, spreads)
def test_the_saving_is_inside_its_interval_and_exchanging_both_sides_reverses_it(
    measured: list[tuple[float, float]], spread: float
) -> None:
    before, after = zip(*measured, strict=True)
    gain, reverse = paired_gain(before, after, spread), paired_gain(after, before, spread)
    assert gain is not None
    assert reverse is not None
    assert gain.low_percent <= gain.saves_percent <= gain.high_percent <= 100
    assert gain.speedup * reverse.speedup == pytest.approx(1, rel=1e-6)
    opposite = {"helped": "slower", "slower": "helped", "no clear change": "no clear change"}
    if gain.high_percent < 99.9 and gain.low_percent > -1e6:
        assert outcome(reverse, spread) in (opposite[outcome(gain, spread)], "no clear change")


@given(pairs, st.lists(st.floats(0.1, 10), min_size=20, max_size=20))
def test_a_drift_of_the_machine_changes_nothing(measured: list[tuple[float, float]], drift: list[float]) -> None:
    before, after = zip(*measured, strict=True)
    drifted = paired_gain(
        [cost * factor for cost, factor in zip(before, drift, strict=False)],
        [cost * factor for cost, factor in zip(after, drift, strict=False)],
    )
    gain = paired_gain(before, after)
    assert drifted is not None
    assert gain is not None
    assert drifted.speedup == pytest.approx(gain.speedup, rel=1e-6)


@given(pairs, pairs, spreads)
def test_chained_gains_multiply_and_are_less_certain_than_each(
    first: list[tuple[float, float]], second: list[tuple[float, float]], spread: float
) -> None:
    one, two = (paired_gain(*zip(*measured, strict=True), spread) for measured in (first, second))
    assert one is not None
    assert two is not None
    both = chained([one, two])
    assert both.speedup == pytest.approx(one.speedup * two.speedup, rel=1e-6)
    assert both.low_percent <= both.saves_percent <= both.high_percent <= 100
    if min(one.low_percent, two.low_percent) > -1e6:
        for each in (one, two):
            mine, its = ((100 - gain.saves_percent) / (100 - gain.low_percent) for gain in (both, each))
            assert mine <= its + 1e-6
    assert both.pairs == min(one.pairs, two.pairs)


@given(pairs, spreads, spreads)
def test_more_noise_of_equal_contenders_makes_no_gain(
    measured: list[tuple[float, float]], less: float, more: float
) -> None:
    before, after = zip(*measured, strict=True)
    less, more = sorted((less, more))
    quiet, noisy = paired_gain(before, after, less), paired_gain(before, after, more)
    assert quiet is not None
    assert noisy is not None
    assert noisy.low_percent <= quiet.low_percent
    if outcome(noisy, more) == "helped":
        assert outcome(quiet, less) == "helped"


@given(costs)
def test_equal_costs_are_no_gain(measured: list[float]) -> None:
    gain = paired_gain(measured, measured)
    assert gain is not None
    assert (gain.saves_percent, outcome(gain)) == (0, "no clear change")
    assert is_decided(gain)
    assert control_spread(measured, measured) == 0


def test_a_gain_needs_its_interval_the_spread_and_the_smallest_size() -> None:
    clear = paired_gain([1.0] * 5, [0.9, 0.91, 0.9, 0.89, 0.9])
    assert clear is not None
    assert outcome(clear) == "helped"
    assert outcome(clear, spread=0.2) == "no clear change"
    tiny = paired_gain([1.0] * 5, [1 - MIN_GAIN_PERCENT / 200] * 5)
    assert tiny is not None
    assert tiny.low_percent > 0
    assert outcome(tiny) == "no clear change"
    two = paired_gain([1.0] * 2, [0.5] * 2)
    assert two is not None
    assert outcome(two) == "no clear change"
    assert paired_gain([1.0], [0.5]) is None


@pytest.mark.parametrize(("pairs", "quantile"), [(3, 22.327), (5, 7.173), (10, 4.297), (40, 3.733)])
def test_the_interval_is_students(pairs: int, quantile: float) -> None:
    logs = [0.5 + 0.1 * (-1) ** number for number in range(pairs)]
    gain = paired_gain([math.exp(log) for log in logs], [1.0] * pairs)
    assert gain is not None
    mean = sum(logs) / pairs
    deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / (pairs - 1))
    low = mean - quantile * deviation / math.sqrt(pairs)
    assert gain.low_percent == pytest.approx(100 * (1 - math.exp(-low)), rel=1e-3)
