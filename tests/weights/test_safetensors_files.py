"""Weights read from safetensors directories equal those that transformers saved."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from roseinfer.errors import ModelError, UsageError
from roseinfer.weights.hub_files import safetensors_files
from roseinfer.weights.resolve import resolve
from roseinfer.weights.safetensors_files import SafetensorsReader
from roseinfer.weights.weight_reader import WeightReader, open_weights


def opened(folder: Path) -> WeightReader:
    return open_weights(resolve(str(folder), "auto", ()))


@pytest.mark.parametrize("directory", ["llama_directory", "sharded_directory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_file_and_shards_give_back_the_saved_weights(
    directory: str, dtype: torch.dtype, llama: torch.nn.Module, request: pytest.FixtureRequest
) -> None:
    reader = opened(request.getfixturevalue(directory))
    saved = llama.state_dict()
    read = dict(reader.tensors(dtype))
    assert sorted(read) == sorted(reader.names()) == sorted(saved)
    assert all(torch.equal(read[name], saved[name].to(dtype)) for name in saved)


def test_the_only_file_may_have_any_name_and_of_several_the_usual_one_counts() -> None:
    usual, other = "model.safetensors", "other.safetensors"
    assert safetensors_files("a/b", [other, usual, "config.json"], None) == [usual]
    assert safetensors_files("a/b", [other, "config.json"], None) == [other]


def test_the_directorys_config_is_the_description(llama_directory: Path) -> None:
    description = opened(llama_directory).description
    assert (description["model_type"], description["hidden_size"]) == ("llama", 32)


def test_bytes_are_counted_for_every_stored_dtype(tmp_path: Path) -> None:
    tensors = {
        "f32": torch.zeros(3, 5),
        "bf16": torch.zeros(7, dtype=torch.bfloat16),
        "f8": torch.zeros(9, dtype=torch.float8_e4m3fn),
        "mask": torch.ones(11, dtype=torch.bool),
        "ids": torch.arange(4),
        "u8": torch.zeros(2, dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    reader = opened(tmp_path)
    seen: list[tuple[int, int]] = []
    read = dict(reader.tensors(torch.float32, lambda done, total: seen.append((done, total))))
    assert reader.total_bytes == sum(tensor.nbytes for tensor in tensors.values()) == seen[-1][0] == seen[-1][1]
    assert (read["mask"].dtype, read["ids"].dtype, read["bf16"].dtype) == (torch.bool, torch.int64, torch.float32)


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for content in (b"", b"GGUF", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{]"):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="not a valid safetensors file") as caught:
            opened(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_cut_file(llama_directory: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_directory, tmp_path / "m")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(ModelError, match="not a valid safetensors file"):
        opened(folder)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    files = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for file in files:
        save_file({"w": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="tensor w is in both"):
        SafetensorsReader(tmp_path, files)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_config(text: str, llama_directory: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama_directory, tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        opened(folder)


def test_a_dummy_model_has_nothing_to_open() -> None:
    with pytest.raises(UsageError, match="no weights"):
        open_weights(resolve("gpt2", "dummy", ("gpt2",)))
