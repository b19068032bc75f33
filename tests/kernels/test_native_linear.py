"""Tests that products with weights packed for the compiled CPU kernels agree with plain products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_builds import COMPILER

from roseinfer.kernels.cpu import native_library
from roseinfer.kernels.linear.form_choice import Packing, choose_form, choose_quantized_form
from roseinfer.kernels.linear.native_weight import NativeWeight
from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.torch_quantized import Int4Groups, Int8Rows
from roseinfer.kernels.linear.weight_form import linear_reference
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import FusedLinear

pytestmark = [
    pytest.mark.usefixtures("loaded"),
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
]


@given(
    kind=st.sampled_from(["none", "int8", "int4"]),
    rows=st.one_of(st.integers(0, 20), st.integers(60, 140)),
    parts=st.lists(st.sampled_from([16, 32, 64, 96, 128, 192]), min_size=1, max_size=3),
    more=st.integers(0, 15),
    size=st.integers(1, 12),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_products_are_those_of_the_plain_matrix(
    kind: Packing,
    rows: int,
    parts: list[int],
    more: int,
    size: int,
    bias: bool,
    dtype: torch.dtype,
    threads: int,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    size *= 32 if kind == "int4" else 16
    if kind == "int4":
        parts, more = [32 * (part // 32 + 1) for part in parts], 0
    layer = FusedLinear(
        size, {str(index): part for index, part in enumerate([*parts, *[more] * (more > 0)])}, bias=bias
    )
    layer = layer.to(dtype)
    for parameter in layer.parameters():
        parameter.data.normal_()
    plain = layer.weight.clone()
    if kind == "int4":
        layer.pack_quantized(QuantizedWeight.int4_groups(plain))
    else:
        layer.pack(kind)
    packed, x = layer.packed, torch.randn(rows, size).to(dtype)
    assert isinstance(packed, NativeWeight)
    if kind == "none":
        assert torch.equal(packed.values(dtype), plain)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out, expected = layer(x), linear_reference(x, packed, layer.bias)
    finally:
        torch.set_num_threads(before)
    assert out.dtype == dtype
    exact = dtype == torch.float32
    torch.testing.assert_close(out, expected, atol=(1e-5 if exact else 2e-2) * size**0.5, rtol=1e-4 if exact else 2**-6)


@pytest.mark.parametrize("packing", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_rows_are_summed_in_parts(packing: Packing, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(128, 4128).to(dtype), torch.randn(50, 4128).to(dtype)
    packed = choose_form(weight, packing, 128)
    assert isinstance(packed, NativeWeight)
    out, expected = packed.linear(x), linear_reference(x, packed)
    torch.testing.assert_close(out, expected, atol=1e-3 if dtype == torch.float32 else 0.5, rtol=2**-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantized_values_are_those_of_the_forms_that_they_come_from(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(192, 96)
    rows, groups = QuantizedWeight.int8_rows(weight), QuantizedWeight.int4_groups(weight)
    assert torch.equal(NativeWeight.pack_quantized(rows, 192).values(dtype), Int8Rows.pack(rows).values(dtype))
    scales, offsets = (plane.bfloat16().float() for plane in (groups.scales, groups.offsets))
    rounded = QuantizedWeight("uint4", groups.codes, scales, offsets)
    assert torch.equal(choose_quantized_form(groups, 192).values(dtype), rounded.values(dtype))


def test_activations_of_another_dtype_are_widened() -> None:
    torch.manual_seed(0)
    packed, x, bias = choose_form(torch.randn(64, 32), "int8", 64), torch.randn(3, 32).half(), torch.randn(64).half()
    assert isinstance(packed, NativeWeight)
    out = packed.linear(x, bias)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, linear_reference(x, packed, bias), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_x_may_have_any_strides_and_another_dtype_than_the_weight(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed, bias = choose_form(torch.randn(64, 32).to(dtype), "none", 64), torch.randn(64).bfloat16()
    assert packed is not None
    for x in (torch.randn(5, 48)[:, 16:], torch.randn(32, 5).t()):
        for own in (torch.float32, torch.bfloat16):
            out, expected = packed.linear(x.to(own), bias), linear_reference(x.to(own), packed, bias)
            assert out.dtype == own
            torch.testing.assert_close(out, expected, atol=0.1, rtol=0.02)


@pytest.mark.parametrize("outputs", [1025, 3001])
def test_many_outputs_end_in_a_part_of_a_pack(outputs: int) -> None:
    torch.manual_seed(0)
    packed, x = choose_form(torch.randn(outputs, 32), "int8", outputs), torch.randn(3, 32)
    assert packed is not None
    torch.testing.assert_close(packed.linear(x), linear_reference(x, packed), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("packing", ["none", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_looked_up_and_multiplied_alike(packing: Packing, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    table = Embedding(100, 32).to(dtype)  # not a multiple of a pack
    table.table.data.normal_()
    ids, hidden = torch.tensor([3, 99, 3]), torch.randn(2, 32).to(dtype)
    rows, logits, before, row_bytes = table(ids), table.logits(hidden), table.weight_bytes, table.row_bytes
    table.pack_head(packing)
    assert isinstance(table.form, NativeWeight)
    assert table.table.numel() == 0, "there is one copy"
    assert table.logits(hidden).shape == (2, 100)
    if packing == "none":
        assert torch.equal(table(ids), rows)
        assert table.row_bytes == row_bytes
        torch.testing.assert_close(
            table.logits(hidden), logits, atol=0.05 if dtype == torch.bfloat16 else 1e-4, rtol=0.01
        )
    else:
        assert table.weight_bytes < before / 1.5
        assert table.row_bytes == 32 + 2
        assert torch.equal(table(ids), table.weight[ids])
        torch.testing.assert_close(table(ids), rows, atol=0.05, rtol=0)


def test_what_the_kernels_cannot_take_stays_with_torch() -> None:
    assert not NativeWeight.fits(torch.randn(64, 24))
    assert not NativeWeight.fits(torch.randn(64, 32, dtype=torch.float64))
    groups = QuantizedWeight.int4_groups(torch.randn(64, 32))
    if Int4Groups.fits(torch.randn(64, 32)):
        assert isinstance(choose_quantized_form(groups, 16), Int4Groups)


def test_without_the_kernels_weights_stay_with_torch() -> None:
    functions = dict(native_library.functions)
    native_library.unload()
    try:
        assert not NativeWeight.fits(torch.randn(64, 32))
        assert isinstance(choose_form(torch.randn(64, 32), "int8", 64), Int8Rows)
    finally:
        native_library.functions.update(functions)
