"""Tests that the activation kernels agree with torch."""

import pytest
import torch
from devices import DEVICE, DTYPES, generator, tolerance

from roseinfer.kernels import activations

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "gelu_tanh", "gelu"])
@pytest.mark.parametrize("size", [2, 1500])
def test_activations_equal_their_references(name: str, dtype: torch.dtype, size: int) -> None:
    x = (3 * torch.randn(3, size, generator=generator(size))).to(dtype).to(DEVICE)
    x[0, 0] = 40.0  # a naive exponential could overflow
    x[1, 0] = -40.0
    ours = getattr(activations, f"{name}_triton")(x)
    torch.testing.assert_close(ours, getattr(activations, f"{name}_reference")(x), **tolerance(dtype))
    entry = getattr(activations, name)
    doubled = x.double()
    torch.testing.assert_close(entry(doubled).to(dtype), ours, **tolerance(dtype))
