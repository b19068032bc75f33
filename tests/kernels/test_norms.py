"""Tests that a residual addition fused with a norm agrees with the two separate operations."""

import pytest
import torch
from devices import DEVICE, DTYPES, generator, tolerance

from roseinfer.kernels.norms import (
    add_layer_norm,
    add_layer_norm_reference,
    add_layer_norm_triton,
    add_rms_norm,
    add_rms_norm_mirrored,
    add_rms_norm_reference,
    add_rms_norm_triton,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 96, 768, 1024])
@pytest.mark.parametrize("with_residual", [True, False])
def test_norms_equal_their_references(dtype: torch.dtype, size: int, with_residual: bool) -> None:
    x, residual = torch.randn(2, 5, size, generator=generator(size)).to(dtype).to(DEVICE)
    weight, bias = torch.randn(2, size, generator=generator(1)).to(dtype).to(DEVICE)
    added = residual if with_residual else None
    close = tolerance(dtype)
    for ours, expected in zip(
        add_rms_norm_triton(x, added, weight, 1e-6), add_rms_norm_reference(x, added, weight, 1e-6), strict=True
    ):
        torch.testing.assert_close(ours, expected, **close)
    for shift in (bias, None):
        for ours, expected in zip(
            add_layer_norm_triton(x, added, weight, shift, 1e-5),
            add_layer_norm_reference(x, added, weight, shift, 1e-5),
            strict=True,
        ):
            torch.testing.assert_close(ours, expected, **close)


def test_rows_need_not_lie_side_by_side() -> None:
    x = torch.randn(4, 64, generator=generator(0)).to(DEVICE)[:, :48]
    weight = torch.ones(48, device=DEVICE)
    ours, total = add_rms_norm_triton(x, x, weight, 1e-6)
    torch.testing.assert_close(ours, add_rms_norm_reference(x, x, weight, 1e-6)[0])
    torch.testing.assert_close(total, 2 * x)


def test_the_entries_compute_float64_too() -> None:
    x = torch.randn(3, 8, dtype=torch.float64, device=DEVICE)
    weight = torch.ones(8, dtype=torch.float64, device=DEVICE)
    normed, total = add_rms_norm(x, None, weight, 0.0)
    torch.testing.assert_close(normed.square().mean(1), torch.ones(3, dtype=torch.float64, device=DEVICE))
    assert total is x
    assert add_layer_norm(x, x, weight, None, 0.0)[0].mean(1).abs().max() < 1e-12


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 100.0])
def test_a_layer_norm_of_mirrored_rows_is_the_rms_norm(rows: int, spread: float) -> None:
    torch.manual_seed(0)
    x, residual = (torch.randn(2, rows, 96) * spread).bfloat16()
    weight = torch.randn(96).bfloat16()
    for added in (None, residual):
        normed, total = add_rms_norm_mirrored(x, added, torch.cat((weight, weight)), 1e-5)
        expected, expected_total = add_rms_norm_reference(x, added, weight, 1e-5)
        assert torch.equal(total, expected_total)
        torch.testing.assert_close(normed, expected, atol=1e-6, rtol=2**-7)
