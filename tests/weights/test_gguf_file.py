"""GGUF weights are dequantized exactly, to the requested dtype and in torch's shapes."""

from collections.abc import Callable
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
import torch

from roseinfer.errors import ModelError
from roseinfer.weights import gguf_file
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.resolve import resolve
from roseinfer.weights.weight_reader import open_weights

Quant = gguf.GGMLQuantizationType
QUANTIZED = [Quant.Q4_0, Quant.Q4_1, Quant.Q5_0, Quant.Q5_1, Quant.Q8_0, Quant.Q2_K, Quant.Q3_K, Quant.Q4_K]
QUANTIZED += [Quant.Q5_K, Quant.Q6_K, Quant.IQ4_NL, Quant.IQ4_XS]


def random_blocks(kind: Quant, rows: int, columns: int) -> np.ndarray:
    """Return the stored bytes of a random quantized matrix whose scales are finite."""
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(int(kind)).integers(0, 256, (rows, columns // block_size * block_bytes), np.uint8)
    # Any two bytes may be a float16 scale. Clearing its upper bits keeps it finite.
    return raw & 0x3F


def by_definition(reader: gguf.GGUFReader, name: str) -> np.ndarray:
    """Dequantize a tensor by the format's definition: Q8_0 is d*q and Q4_1 is d*q + m, in blocks of 32."""
    tensor = next(tensor for tensor in reader.tensors if tensor.name == name)
    raw = np.ascontiguousarray(tensor.data)
    if tensor.tensor_type == Quant.Q8_0:
        blocks = raw.reshape(-1, 34)
        scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        values = scale * blocks[:, 2:].view(np.int8)
    else:
        assert tensor.tensor_type == Quant.Q4_1
        blocks = raw.reshape(-1, 20)
        scale, minimum = blocks[:, :4].copy().view(np.float16).astype(np.float32).T[..., None]
        values = scale * np.hstack([blocks[:, 4:] & 15, blocks[:, 4:] >> 4]) + minimum
    return values.reshape(tuple(tensor.shape[::-1]))


@pytest.fixture(scope="module")
def demo_tensors(demo_path: Path) -> dict[str, torch.Tensor]:
    return dict(GgufReader(demo_path).tensors(torch.float32))


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.7.ffn_down.weight"])
def test_the_demo_models_weights_are_what_the_format_defines(
    name: str, demo_by_gguf: gguf.GGUFReader, demo_tensors: dict[str, torch.Tensor]
) -> None:
    np.testing.assert_array_equal(demo_tensors[name].numpy(), by_definition(demo_by_gguf, name))


def test_linear_weights_are_out_by_in(demo_tensors: dict[str, torch.Tensor]) -> None:
    assert demo_tensors["blk.0.ffn_up.weight"].shape == (1536, 576)
    assert demo_tensors["blk.0.attn_k.weight"].shape == (192, 576)
    assert demo_tensors["token_embd.weight"].shape == (49152, 576)
    assert demo_tensors["output_norm.weight"].shape == (576,)


@pytest.mark.parametrize("chunk_blocks", [1, 7, 4096])
@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_every_quantization_equals_the_gguf_packages_own_whatever_the_chunk(
    kind: Quant, chunk_blocks: int, write_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "_CHUNK_BLOCKS", chunk_blocks)
    raw = random_blocks(kind, 6, 512)
    path = write_gguf(lambda writer: writer.add_tensor("w", raw, raw_dtype=kind))
    (name, tensor), *rest = GgufReader(path).tensors(torch.float32)
    assert (name, rest) == ("w", [])
    np.testing.assert_array_equal(tensor.numpy(), gguf.dequantize(raw, kind))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_plain_tensors_have_the_requested_dtype(dtype: torch.dtype, write_gguf: Callable[..., Path]) -> None:
    values = torch.linspace(-3, 3, 24).view(4, 6)
    as_bytes = values.bfloat16().view(torch.uint8).numpy()

    def fill(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("f32", values.numpy())
        writer.add_tensor("f16", values.half().numpy())
        writer.add_tensor("bf16", as_bytes, raw_dtype=Quant.BF16)
        writer.add_tensor("ids", np.arange(4, dtype=np.int32))

    tensors = dict(GgufReader(write_gguf(fill)).tensors(dtype))
    assert torch.equal(tensors["f32"], values.to(dtype))
    assert torch.equal(tensors["f16"], values.half().to(dtype))
    assert torch.equal(tensors["bf16"], values.bfloat16().to(dtype))
    assert tensors["ids"].tolist() == [0, 1, 2, 3]


def test_writing_into_a_tensor_does_not_change_the_file(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(lambda writer: writer.add_tensor("w", np.ones(8, dtype=np.float32)))
    before = path.read_bytes()
    for _, tensor in GgufReader(path).tensors(torch.float32):
        tensor.zero_()
    assert path.read_bytes() == before


def test_progress_counts_up_to_the_total(demo_path: Path) -> None:
    reader = open_weights(resolve(str(demo_path), "auto", ()))
    seen: list[tuple[int, int]] = []
    names = [name for name, _ in reader.tensors(torch.bfloat16, lambda done, total: seen.append((done, total)))]
    assert names == reader.names()
    done = [now for now, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {reader.total_bytes} == {done[-1]}
    assert 0.9 * demo_path.stat().st_size < reader.total_bytes < demo_path.stat().st_size


def test_a_truncated_file_is_refused_before_anything_is_read(demo_path: Path, tmp_path: Path) -> None:
    with demo_path.open("rb") as file:
        (tmp_path / "cut.gguf").write_bytes(file.read(20_000_000))
    with pytest.raises(ModelError, match="truncated"):
        GgufReader(tmp_path / "cut.gguf")


def test_a_quantization_without_dequantization_is_refused_by_name(write_gguf: Callable[..., Path]) -> None:
    raw = np.zeros((2, gguf.GGML_QUANT_SIZES[Quant.Q8_K][1]), np.uint8)
    reader = GgufReader(write_gguf(lambda writer: writer.add_tensor("w", raw, raw_dtype=Quant.Q8_K)))
    with pytest.raises(ModelError, match=r"tensor w is quantized as Q8_K.*use another"):
        list(reader.tensors(torch.float32))


def test_one_part_of_a_split_model_is_refused(write_gguf: Callable[..., Path]) -> None:
    path = write_gguf(lambda writer: writer.add_uint16("split.count", 3))
    with pytest.raises(ModelError, match="one of 3 parts: give the first one"):
        GgufReader(path)


class TestSplitFile:
    """A model in two files, as `gguf-split` of llama.cpp writes them."""

    @pytest.fixture
    def parts(self, write_gguf: Callable[..., Path]) -> list[Path]:
        def part(number: int, **tensors: np.ndarray) -> Path:
            def fill(writer: gguf.GGUFWriter) -> None:
                writer.add_uint16("split.no", number)
                writer.add_uint16("split.count", 2)
                for name, values in tensors.items():
                    writer.add_tensor(name, values)

            return write_gguf(fill, f"m-0000{number + 1}-of-00002.gguf")

        ones = np.ones((2, 3), np.float32)
        return [part(0, a=ones, b=2 * ones), part(1, c=3 * ones)]

    def test_the_first_part_names_the_whole(self, parts: list[Path]) -> None:
        source = resolve(str(parts[0]), "auto", ())
        assert source.weight_files == tuple(parts)
        reader = open_weights(source)
        assert isinstance(reader, GgufReader)
        assert {name: float(tensor[0, 0]) for name, tensor in reader.tensors(torch.float32)} == {"a": 1, "b": 2, "c": 3}
        assert reader.names() == ["a", "b", "c"]
        assert reader.total_bytes == 3 * 24
        assert reader.read("c").shape == (2, 3)
        assert resolve(str(parts[1]), "auto", ()) == msgspec.structs.replace(source, name=str(parts[1]))

    def test_a_missing_part_is_named(self, parts: list[Path]) -> None:
        parts[1].unlink()
        with pytest.raises(ModelError, match=r"one of 2 parts, and m-00002-of-00002\.gguf is missing"):
            resolve(str(parts[0]), "auto", ())

    def test_a_part_that_was_renamed_is_refused(self, parts: list[Path]) -> None:
        parts[0].rename(parts[0].with_name("renamed.gguf"))
        with pytest.raises(ModelError, match="one of 2 parts"):
            open_weights(resolve(str(parts[0].with_name("renamed.gguf")), "auto", ()))

    def test_a_truncated_part_is_named(self, parts: list[Path]) -> None:
        parts[1].write_bytes(parts[1].read_bytes()[:-32])
        with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf is truncated"):
            open_weights(resolve(str(parts[0]), "auto", ()))
