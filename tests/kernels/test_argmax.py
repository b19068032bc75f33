"""Tests that argmax finds the first of the largest values, for short and long rows."""

import pytest
import torch
from devices import DEVICE, DTYPES, generator

from roseinfer.kernels.sampling.argmax import argmax, argmax_reference, argmax_triton

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "size"), [(1, 1), (3, 4096), (2, 4097), (5, 20_000)])
def test_argmax_equals_its_reference(rows: int, size: int, dtype: torch.dtype) -> None:
    # Few distinct values, so that most of them occur many times.
    x = torch.randint(-3, 4, (rows, size), generator=generator(size)).to(dtype).to(DEVICE)
    x[0, size // 2] = 0.0 if x.max() <= 0 else -0.0
    assert argmax_triton(x).tolist() == argmax_reference(x).tolist()
    assert argmax(x.double()).tolist() == argmax_triton(x).tolist()


def test_rows_may_lie_apart_and_hold_infinities() -> None:
    x = torch.full((4, 9000), -torch.inf)
    x[1, 8000] = -3.0
    x[2, 5] = torch.inf
    x[2, 4099] = torch.inf
    x[3, 1:3] = -0.0
    x[3, 2] = 0.0
    wide = torch.nn.functional.pad(x, (0, 7), value=99.0).to(DEVICE)[:, :9000]
    assert argmax_triton(wide).tolist() == [0, 8000, 5, 1]
