"""The GGUF header parser reads what `gguf.GGUFReader` reads, and refuses damaged files with a ModelError."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from roseinfer.errors import ModelError
from roseinfer.weights.gguf_header import GgufHeader, read_gguf_header


def read_by_gguf(reader: gguf.GGUFReader) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]]]:
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = [(t.name, tuple(map(int, t.shape[::-1])), int(t.tensor_type), t.data_offset) for t in reader.tensors]
    return metadata, tensors


def flat(header: GgufHeader) -> list[tuple[str, tuple[int, ...], int, int]]:
    return [(tensor.name, tensor.shape, tensor.ggml_type, tensor.offset) for tensor in header.tensors]


def fill_with_every_kind(writer: gguf.GGUFWriter) -> None:
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -1)
    writer.add_uint16("u16", 65535)
    writer.add_int16("i16", -2)
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -3)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -4)
    writer.add_float32("f32", 0.25)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_string("text", "naïve 日本 👩‍👧")
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("bools", [True, False])
    writer.add_array("strings", ["", "a b", "Ġthe", "\u2581x"])
    writer.add_tensor("vector", np.arange(5, dtype=np.float32))
    writer.add_tensor("matrix", np.zeros((3, 7), dtype=np.float16))
    writer.add_tensor("cube", np.zeros((2, 3, 4), dtype=np.float32))


@pytest.mark.parametrize("alignment", [None, 64])
def test_every_kind_of_value_reads_as_the_gguf_package_reads_it(
    alignment: int | None, write_gguf: Callable[..., Path]
) -> None:
    def fill(writer: gguf.GGUFWriter) -> None:
        fill_with_every_kind(writer)
        if alignment is not None:
            writer.add_custom_alignment(alignment)

    path = write_gguf(fill)
    header = read_gguf_header(path)
    assert (header.metadata, flat(header)) == read_by_gguf(gguf.GGUFReader(path))
    assert header.metadata["u64"] == 2**64 - 1
    assert header.metadata["yes"] is True


def test_the_demo_model_reads_as_the_gguf_package_reads_it(demo_path: Path, demo_by_gguf: gguf.GGUFReader) -> None:
    header = read_gguf_header(demo_path)
    assert (header.metadata, flat(header)) == read_by_gguf(demo_by_gguf)


def test_a_header_cut_anywhere_is_an_error_in_one_line(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(fill_with_every_kind)
    whole = path.read_bytes()
    end = min(tensor.offset for tensor in read_gguf_header(path).tensors) - 32
    for length in range(end):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as caught:
            read_gguf_header(path)
        assert "\n" not in str(caught.value)


def test_a_last_string_that_is_cut_is_not_taken_for_a_shorter_one(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(lambda writer: writer.add_string("last", "text"))
    whole = path.read_bytes().rstrip(b"\0")
    assert whole.endswith(b"text")
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="extends beyond the end"):
        read_gguf_header(path)


def test_flipped_bytes_never_end_in_anything_but_a_model_error(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(fill_with_every_kind)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        path.write_bytes(damaged)
        try:
            read_gguf_header(path)
        except ModelError:
            refused += 1
    assert refused > 200


def test_other_versions_and_big_endian_files_are_refused_by_version(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(fill_with_every_kind)
    whole = path.read_bytes()
    for version in (1, 4, 3 << 24):
        path.write_bytes(whole[:4] + version.to_bytes(4, "little") + whole[8:])
        with pytest.raises(ModelError, match=f"version is {version}"):
            read_gguf_header(path)
