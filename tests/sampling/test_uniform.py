"""Counter-based random numbers are a function of (seed, position), and uniform."""

import numpy as np
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from roseinfer.sampling.uniform import derived_seed, mix, uniform

int64 = st.integers(0, 2**63 - 1)


@given(st.lists(st.tuples(int64, int64), min_size=1, max_size=8))
@example([(0, 0), (2**63 - 1, 2**63 - 1)])
def test_tensors_compute_what_python_integers_do(pairs: list[tuple[int, int]]) -> None:
    seeds, positions = zip(*pairs, strict=True)
    numbers = uniform(torch.tensor(seeds), torch.tensor(positions)).tolist()
    assert numbers == [(mix(mix(seed) ^ position) >> 11) * 2.0**-53 for seed, position in pairs]
    assert all(0 <= number < 1 for number in numbers)


def test_mix_is_splitmix64() -> None:
    """Compare with the first outputs from state 1234567 that are published with the reference code."""
    golden, first = 0x9E3779B97F4A7C15, 1234567
    outputs = [mix((first + index * golden) % 2**64) for index in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def check_uniform(numbers: np.ndarray) -> None:
    """Check the mean, the serial correlation, and a chi-square over 64 equal bins, each to five standard deviations."""
    count = len(numbers)
    assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * count)
    bins = np.bincount((numbers * 64).astype(int), minlength=64)
    assert abs(((bins - count / 64) ** 2 / (count / 64)).sum() - 63) < 5 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 5 / np.sqrt(count)


def test_the_positions_of_one_seed_look_uniform_and_unrelated() -> None:
    check_uniform(uniform(torch.full((50_000,), 42), torch.arange(50_000)).numpy())


def test_neighbouring_seeds_look_uniform_and_unrelated() -> None:
    check_uniform(uniform(torch.arange(50_000), torch.full((50_000,), 7)).numpy())


@given(st.lists(st.integers(0, 2**80), min_size=1, max_size=4))
def test_a_derived_seed_fits_a_tensor_and_depends_on_every_part(parts: list[int]) -> None:
    seed = derived_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derived_seed(*parts)
    for index in range(len(parts)):
        assert derived_seed(*parts[:index], parts[index] ^ 1, *parts[index + 1 :]) != seed
    assert derived_seed(*parts, 0) != seed
