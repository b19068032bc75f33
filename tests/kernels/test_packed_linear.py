"""Tests that weights packed for oneDNN give the plain matrix product."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.kernels.linear.onednn_weight import OneDnnWeight
from roseinfer.kernels.linear.weight_form import linear_reference
from roseinfer.models.linear import FusedLinear


@given(
    rows=st.integers(0, 40),
    outputs=st.integers(256, 700),
    size=st.integers(256, 700),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_a_packed_weight_gives_the_plain_product(
    rows: int, outputs: int, size: int, bias: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(outputs, size).to(dtype)
    if not OneDnnWeight.fits(weight):
        pytest.skip(f"no packed {dtype} on this processor")
    x, b = torch.randn(rows, size).to(dtype), torch.randn(outputs).to(dtype) if bias else None
    packed = OneDnnWeight.pack(weight)
    assert torch.equal(packed.values(dtype), weight)
    expected = linear_reference(x, packed, b)
    tolerance = 1e-4 if dtype == torch.float32 else 0.5  # for sums of order sqrt(size); bfloat16 has 8 significant bits
    torch.testing.assert_close(packed.linear(x, b), expected, atol=tolerance, rtol=tolerance / 10)


def test_what_has_no_packed_form_stays_as_it_is() -> None:
    assert not OneDnnWeight.fits(torch.randn(8, 8)), "too small to be faster"
    assert not OneDnnWeight.fits(torch.randn(512, 512, dtype=torch.float64))


def test_a_packed_layer_computes_the_same_and_still_tells_its_parts() -> None:
    torch.manual_seed(0)
    layer = FusedLinear(512, {"gate": 300, "up": 200}, bias=True)
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.randn(3, 512)
    expected, parts = layer(x), {name: layer.weight_map()[f"{name}.weight"].view.clone() for name in layer.parts}
    layer.pack()
    torch.testing.assert_close(layer(x), expected, atol=1e-3, rtol=1e-4)
    added, stream = layer.onto(x, expected)
    assert stream is expected
    torch.testing.assert_close(added, expected, atol=1e-3, rtol=1e-4)
    for name, weight in parts.items():
        assert torch.equal(layer.weight_map()[f"{name}.weight"].view, weight)
