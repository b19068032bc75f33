"""Dummy weights are random, have the documented standard deviation, and depend on the seed alone."""

import pytest
import torch

from roseinfer.weights.dummy import STD, fill_dummy


def filled(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    tensors = [torch.empty(300, 400, dtype=dtype), torch.empty(1000, dtype=dtype)]
    fill_dummy(tensors, seed)
    return tensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_values_spread_around_zero(dtype: torch.dtype) -> None:
    values = filled(0, dtype)[0].double()
    assert values.mean().item() == pytest.approx(0, abs=STD / 50)
    assert values.std().item() == pytest.approx(STD, rel=0.02)


def test_the_seed_decides_everything() -> None:
    assert all(torch.equal(a, b) for a, b in zip(filled(3), filled(3), strict=True))
    assert not torch.equal(filled(3)[0], filled(4)[0])


def test_torchs_own_random_state_is_neither_used_nor_touched() -> None:
    before = torch.get_rng_state()
    filled(0)
    assert torch.equal(before, torch.get_rng_state())


def test_parameters_that_require_gradients_are_filled_too() -> None:
    parameter = torch.nn.Parameter(torch.zeros(8))
    fill_dummy([parameter], 0)
    assert parameter.count_nonzero() == 8
