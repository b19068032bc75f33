"""Lengths of drawn prompts and completions: the distribution of each form, and the forms that are refused."""

import random
from statistics import median

import pytest

from roseinfer.errors import UsageError
from roseinfer.workload.lengths import parse_lengths


def drawn(spec: int | str, count: int = 4000) -> list[int]:
    rng = random.Random(1)
    lengths = parse_lengths("--prompt-length", spec)
    return [lengths.draw(rng) for _ in range(count)]


def test_a_number_is_a_constant_length() -> None:
    assert set(drawn(128)) == set(drawn("128")) == {128}


def test_a_range_reaches_both_its_ends_evenly() -> None:
    lengths = drawn("3..6")
    assert set(lengths) == {3, 4, 5, 6}
    assert all(900 < lengths.count(value) < 1100 for value in (3, 4, 5, 6))


def test_lognormal_has_its_median_and_its_spread() -> None:
    lengths = drawn("lognormal:200:0.5")
    assert median(lengths) == pytest.approx(200, rel=0.03)
    within = sum(200 / 1.6487 <= length <= 200 * 1.6487 for length in lengths) / len(lengths)
    assert within == pytest.approx(0.683, abs=0.02)


def test_lognormal_is_at_least_one_and_at_most_its_limit() -> None:
    lengths = drawn("lognormal:2:2:50")
    assert min(lengths) == 1
    assert max(lengths) == 50


@pytest.mark.parametrize(
    "spec", ["0", 0, "-3", "ten", "", "5..4", "0..4", "1..2..3", "..", "lognormal:5", "lognormal:0:1", "lognormal:a:b",
             "lognormal:5:-1", "lognormal:5:nan", "lognormal:inf:1", "lognormal:5:1:0", "lognormal:5:1:9:9", "1.5"]
)  # fmt: skip
def test_an_invalid_length_is_refused_by_the_name_of_its_option(spec: int | str) -> None:
    with pytest.raises(UsageError, match=r"invalid --prompt-length .*: give a number of tokens such as 128"):
        parse_lengths("--prompt-length", spec)
