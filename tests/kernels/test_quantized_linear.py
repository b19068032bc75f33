"""Tests that products with int8 and int4 weights agree with products of the dequantized weights."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.kernels.linear.torch_quantized import Int4Groups, Int8Rows
from roseinfer.kernels.linear.weight_form import WeightForm, linear_reference
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import FusedLinear, Linear

pytestmark = pytest.mark.usefixtures("single_threaded")


def quantized(bits: int, weight: torch.Tensor) -> WeightForm:
    if bits == 8:
        return Int8Rows.pack(QuantizedWeight.int8_rows(weight))
    return Int4Groups.pack(QuantizedWeight.int4_groups(weight))


def needs_int4(weight: torch.Tensor) -> None:
    if not Int4Groups.fits(weight):
        pytest.skip("torch packs int4 weights in another order on this processor")


@given(
    bits=st.sampled_from([4, 8]),
    rows=st.one_of(st.integers(0, 20), st.integers(60, 70)),
    outputs=st.integers(1, 4),
    size=st.integers(1, 8),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_few_rows_and_many_give_the_product_of_the_widened_weight(
    bits: int, rows: int, outputs: int, size: int, bias: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(64 * outputs, 32 * size)
    if bits == 4:
        needs_int4(weight)
    packed = quantized(bits, weight)
    x = torch.randn(rows, 32 * size).bfloat16().to(dtype)  # the kernels for few rows round x to bfloat16
    b = torch.randn(64 * outputs).to(dtype) if bias else None
    out, expected = packed.linear(x, b), linear_reference(x, packed, b)
    assert out.dtype == dtype
    # The dequantized weight, the product and the sum with the bias are each rounded to the 8 bits of bfloat16.
    torch.testing.assert_close(out.float(), expected.float(), atol=0.02 * (32 * size) ** 0.5, rtol=2**-6)


@pytest.mark.parametrize(("outputs", "size"), [(1, 16), (3, 48), (257, 80)])
def test_8_bits_take_any_number_of_rows(outputs: int, size: int) -> None:
    torch.manual_seed(0)
    packed, x = quantized(8, torch.randn(outputs, size)), torch.randn(5, size).bfloat16()
    expected = linear_reference(x, packed)
    torch.testing.assert_close(packed.linear(x), expected, atol=0.2, rtol=2**-6)


def test_rows_of_x_may_begin_anywhere_in_memory() -> None:
    torch.manual_seed(0)
    x = torch.randn(4 * 64 + 3).bfloat16()[3:].view(4, 64)
    for bits in (8, 4):
        weight = torch.randn(64, 64)
        if bits == 8 or Int4Groups.fits(weight):
            packed = quantized(bits, weight)
            assert torch.equal(packed.linear(x), packed.linear(x.clone()))


@given(seed=st.integers(0, 1000), spread=st.floats(-8, 8))
@settings(max_examples=30, deadline=None)
def test_codes_are_the_nearest(seed: int, spread: float) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(64, 64) * 10**spread + torch.randn(64, 1)
    rows = Int8Rows.pack(QuantizedWeight.int8_rows(weight))
    step = rows.scales.float()[:, None]
    assert ((rows.values(torch.float32) - weight).abs() <= 0.51 * step + 2**-8 * step).all()
    groups = QuantizedWeight.int4_groups(weight)
    step = groups.scales.repeat_interleave(32, dim=1)
    rounding = 1e-6 * weight.abs()
    assert ((groups.values(torch.float32) - weight).abs() <= 0.501 * step + rounding).all()


def test_rows_of_zeros_stay_zeros() -> None:
    zeros = torch.zeros(64, 64)
    assert not quantized(8, zeros).values(torch.float32).any()
    assert not QuantizedWeight.int4_groups(zeros).values(torch.float32).any()


def test_4_bits_are_packed_without_a_loss_but_of_the_scales() -> None:
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (128, 96), dtype=torch.uint8)
    scales, offsets = torch.randn(128, 3).bfloat16().float(), torch.randn(128, 3).bfloat16().float()
    needs_int4(codes)
    packed = Int4Groups.pack(groups := QuantizedWeight("uint4", codes, scales, offsets))
    assert torch.equal(packed.values(torch.float32), groups.values(torch.float32))


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_4_bits_are_read_right_on_other_processors(capability: str) -> None:
    """The packed order depends on the instruction set, and torch can be told to use an older one."""
    if capability == "avx512" and "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has no AVX-512")
    code = (
        "import torch; from roseinfer.kernels.linear.torch_quantized import *\n"
        "weight = torch.randn(128, 64); x = torch.eye(64)\n"
        "if Int4Groups.fits(weight):\n"
        "    packed = Int4Groups.pack(QuantizedWeight.int4_groups(weight))\n"
        "    by_kernel = packed._few_rows(x.bfloat16())\n"
        "    assert torch.equal(packed.values(torch.bfloat16).t(), by_kernel)\n"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


@pytest.mark.parametrize("packing", ["int8", "int4"])
def test_a_quantized_layer_is_smaller_and_still_tells_its_parts(packing: str) -> None:
    torch.manual_seed(0)
    layer = FusedLinear(64, {"gate": 96, "up": 32}, bias=True)
    for parameter in layer.parameters():
        parameter.data.normal_()
    x = torch.randn(3, 64)
    expected, before, parts = (
        layer(x),
        layer.weight_bytes,
        {name: layer.weight_map()[f"{name}.weight"].view for name in layer.parts},
    )
    layer.pack(packing)  # type: ignore[arg-type]
    assert layer.weight_bytes < before / 3
    error = 0.02 if packing == "int8" else 0.3  # about half a quantization step
    for name, weight in parts.items():
        assert (layer.weight_map()[f"{name}.weight"].view - weight).abs().max() < error
    assert (layer(x) - expected).abs().max() < 64**0.5 * (error + 0.02)  # x rounds to bfloat16
    packed = layer.packed
    layer.pack("none")
    assert layer.packed is packed, "already packed, hence unchanged"


def test_a_quantized_table_is_looked_up_and_multiplied_alike() -> None:
    torch.manual_seed(0)
    table = Embedding(100, 32)
    table.table.data.normal_()
    ids, hidden = torch.tensor([3, 99, 3]), torch.randn(2, 32)
    rows, logits, before = table(ids), table.logits(hidden), table.weight_bytes
    table.pack_head("int8")
    assert table.weight_bytes < before / 3
    assert table.row_bytes == 32 + 2
    torch.testing.assert_close(table(ids), rows, atol=0.02, rtol=0)
    torch.testing.assert_close(table(ids), table.weight[ids])
    torch.testing.assert_close(table.logits(hidden), logits, atol=0.2, rtol=0)
    assert table.logits(hidden).shape == (2, 100)


def test_what_torch_has_no_kernel_for_keeps_more_bits() -> None:
    odd = Linear(24, 64, bias=False)  # no whole groups, and no multiple of 16
    odd.weight.data.normal_()
    odd.pack("int4")
    assert odd.packed is None
    narrow = Linear(64, 40, bias=False)
    narrow.weight.data.normal_()
    narrow.pack("int4")
    assert isinstance(narrow.packed, Int8Rows)
