"""4-bit groups read from GGUF blocks have the values that the gguf package dequantizes."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roseinfer.kernels.linear.quantized_weight import QuantizedWeight
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.gguf_groups import read_groups

KINDS = ["Q4_0", "Q4_1", "Q4_K"]


def random_blocks(kind: str, rows: int, blocks: int, seed: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return random blocks and the matrix shape. Any bytes are valid codes; the half-precision numbers are finite."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (rows * blocks, block_bytes), np.uint8)
    numbers = 1 if kind == "Q4_0" else 2
    raw[:, : 2 * numbers] = random.standard_normal((len(raw), numbers)).astype(np.float16).view(np.uint8)
    return raw, (rows, blocks * block_size)


@given(kind=st.sampled_from(KINDS), rows=st.integers(1, 5), blocks=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_groups_have_the_values_of_the_blocks(kind: str, rows: int, blocks: int, seed: int) -> None:
    raw, shape = random_blocks(kind, rows, blocks, seed)
    groups = read_groups(kind, raw, shape)
    assert groups is not None
    expected = gguf.dequantize(raw, gguf.GGMLQuantizationType[kind]).reshape(shape)
    np.testing.assert_allclose(groups.values(torch.float32).numpy(), expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q6_K", "Q2_K", "F16"])
def test_other_types_have_no_such_groups(kind: str) -> None:
    block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    assert read_groups(kind, np.zeros((256, block_bytes), np.uint8), (256, 32)) is None


def test_a_reader_yields_groups_and_dequantizes_other_types(write_gguf: Callable[..., Path]) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)

    def fill(writer: gguf.GGUFWriter) -> None:
        for name, kind in (("four", "Q4_1"), ("eight", "Q8_0")):
            quantization = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(values, quantization), raw_dtype=quantization)
        writer.add_tensor("plain", values)

    reader = GgufReader(write_gguf(fill))
    seen: list[tuple[int, int]] = []
    tensors = dict(reader.tensors_and_groups(torch.float32, lambda *progress: seen.append(progress)))
    four, eight, plain = tensors["four"], tensors["eight"], tensors["plain"]
    assert isinstance(four, QuantizedWeight)
    assert isinstance(eight, torch.Tensor)
    assert isinstance(plain, torch.Tensor)
    dense = dict(reader.tensors(torch.float32))
    torch.testing.assert_close(four.values(torch.float32), dense["four"])
    assert torch.equal(eight, dense["eight"])
    assert torch.equal(plain, torch.from_numpy(values))
    assert [name for name in reader.names() if reader.is_quantized(name)] == ["four", "eight"]
    assert seen[-1] == (reader.total_bytes, reader.total_bytes)
