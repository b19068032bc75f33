"""Arrival times: all at once, as a Poisson process, and in bursts."""

from itertools import pairwise
from statistics import mean, pstdev

import pytest

from roseinfer.errors import UsageError
from roseinfer.workload.arrivals import arrival_times_s


def gaps(times_s: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times_s)]


def test_without_a_rate_all_arrive_at_once() -> None:
    assert arrival_times_s(5, None, 1, seed=0) == [0.0] * 5


def test_poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() -> None:
    between = gaps(arrival_times_s(20_000, 8.0, 1, seed=3))
    assert mean(between) == pytest.approx(1 / 8, rel=0.03)
    assert pstdev(between) == pytest.approx(1 / 8, rel=0.03)


def test_bursts_arrive_together_at_the_same_mean_rate() -> None:
    times_s = arrival_times_s(20_000, 8.0, 4, seed=3)
    assert all(len(set(times_s[start : start + 4])) == 1 for start in range(0, 20_000, 4))
    assert len(set(times_s)) == 5000
    assert 20_000 / times_s[-1] == pytest.approx(8, rel=0.05)


def test_the_last_burst_may_be_smaller() -> None:
    times_s = arrival_times_s(5, 1.0, 3, seed=0)
    assert times_s[:3] == [0.0] * 3
    assert times_s[3] == times_s[4] > 0


def test_the_first_arrives_at_once_and_the_seed_decides_the_rest() -> None:
    assert arrival_times_s(9, 2.0, 1, seed=5) == arrival_times_s(9, 2.0, 1, seed=5)
    assert arrival_times_s(9, 2.0, 1, seed=5) != arrival_times_s(9, 2.0, 1, seed=6)
    assert arrival_times_s(9, 2.0, 1, seed=5)[0] == 0.0


def test_bursts_without_a_rate_are_refused() -> None:
    with pytest.raises(UsageError, match="--burst-size 2 needs a request rate"):
        arrival_times_s(5, None, 2, seed=0)
