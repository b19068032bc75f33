"""Damaged and hostile model files are refused before anything is built, in one line that names file and key."""

import math
import struct
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import edit_json, save_llama

from roseinfer.config import EngineConfig
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError, UsageError
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.trainer_checkpoint import TrainerReader

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def llama(saved: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may damage."""
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def refused(model: Path, *named: str, **settings: Any) -> None:
    """Assert that the model is refused in one short line with all of the words."""
    with pytest.raises(ModelError) as caught:
        build_engine(EngineConfig(model=str(model), dtype="float32", device="cpu", **settings))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    for word in named:
        assert word in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", 9000),
        ("num_hidden_layers", 10**400),
        ("hidden_size", 1 << 40),
        ("vocab_size", 1 << 60),
        ("num_attention_heads", 0),
        ("num_key_value_heads", [2]),
        ("max_position_embeddings", 1 << 62),
        ("rms_norm_eps", math.nan),
        ("rms_norm_eps", math.inf),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", 10**400),
        ("rope_parameters", [1]),
        ("rope_parameters", {"rope_theta": math.nan}),
        ("rope_parameters", {"rope_theta": -2.0}),
        ("rope_parameters", {"rope_type": ["x"]}),
        ("rope_parameters", {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1.0}),
        ("rope_parameters", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
        ("model_type", ["llama"]),
        ("hidden_act", {"a": 1}),
        ("quantization_config", "x" * 10_000),
    ],
)
def test_a_config_with_an_impossible_value_is_refused(llama: Path, key: str, value: Any) -> None:
    edit_json(llama / "config.json", **{key: value})
    refused(llama, str(llama))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"model_type": "llama", "model_type": "gpt2"}', "'model_type' twice"),
        ("[]", "should hold a JSON object"),
        ("{" + " " * (65 << 20) + "}", "the limit is 64 MiB"),
        ("\xff", "not valid JSON"),
        ('{"model_type": ' + "9" * 6000 + "}", "not valid JSON"),
    ],
    ids=["nesting", "duplicate", "list", "size", "bytes", "digits"],
)
def test_a_config_that_is_no_description_is_refused(llama: Path, text: str, named: str) -> None:
    (llama / "config.json").write_text(text, encoding="latin-1")
    refused(llama, "config.json", named)


def test_a_checkpoint_of_another_size_is_refused_before_anything_is_allocated(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_json(llama / "config.json", intermediate_size=1 << 22, vocab_size=1 << 24)
    monkeypatch.setattr(torch.nn, "Parameter", _only_on_meta)
    refused(llama, "has shape")


def _only_on_meta(tensor: torch.Tensor, requires_grad: bool = True) -> torch.Tensor:
    assert tensor.is_meta, "allocated before the check"
    return tensor


def test_integers_as_weights_are_refused(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(32, dtype=torch.int32)
    save_file(weights, llama / "model.safetensors")
    refused(llama, "model.norm.weight holds integers")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_found_on_request(llama: Path, value: float) -> None:
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, llama / "model.safetensors")
    build_engine(EngineConfig(model=str(llama), device="cpu"))
    refused(llama, "model.layers.1.mlp.up_proj.weight has 1 values that are NaN", check_weights=True)


def test_dummy_weights_cannot_be_checked() -> None:
    with pytest.raises(UsageError, match="--check-weights has no weights to check"):
        build_engine(EngineConfig(model="gpt2", load_format="dummy", check_weights=True, device="cpu"))


@pytest.mark.parametrize("length", [0, 3, 8, 100, 5000, -1, -4000])
def test_a_safetensors_file_cut_anywhere_is_refused(llama: Path, length: int) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(llama, "model.safetensors")


Fill = Callable[[gguf.GGUFWriter], None]


def two_tensors(writer: gguf.GGUFWriter) -> None:
    writer.add_string("text", "a")
    writer.add_custom_alignment(64)
    writer.add_tensor("first", np.ones(5, dtype=np.float32))
    writer.add_tensor("second", np.full(20, 2, dtype=np.float32))


def changed(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize("offset", [0, 32, 63, 65, 128, 1 << 62, (1 << 64) - 64])
def test_a_gguf_tensor_at_another_offset_is_refused(write_gguf: Callable[[Fill], Path], offset: int) -> None:
    path = write_gguf(two_tensors)
    entry = struct.pack("<Q6sIQI", 6, b"second", 1, 20, 0)
    changed(path, entry + struct.pack("<Q", 64), entry + struct.pack("<Q", offset))
    with pytest.raises(ModelError, match=r"second starts at byte \d+, but the tensors before it end at \d+"):
        GgufReader(path)


@pytest.mark.parametrize("alignment", [0, 48, 3, (1 << 32) - 1])
def test_a_gguf_alignment_that_is_no_power_of_two_is_refused(
    write_gguf: Callable[[Fill], Path], alignment: int
) -> None:
    path = write_gguf(two_tensors)
    key = b"general.alignment" + struct.pack("<I", 4)
    changed(path, key + struct.pack("<I", 64), key + struct.pack("<I", alignment))
    with pytest.raises(ModelError, match="is not a power of two"):
        GgufReader(path)


def test_a_gguf_name_that_occurs_twice_is_refused(write_gguf: Callable[[Fill], Path]) -> None:
    def keys(writer: gguf.GGUFWriter) -> None:
        two_tensors(writer)
        writer.add_string("next", "b")

    path = write_gguf(keys)
    changed(path, struct.pack("<Q", 4) + b"next", struct.pack("<Q", 4) + b"text")
    with pytest.raises(ModelError, match="the key 'text' twice"):
        GgufReader(path)

    def names(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("abc", np.ones(8, dtype=np.float32))
        writer.add_tensor("abd", np.ones(8, dtype=np.float32))

    path = write_gguf(names)
    changed(path, b"abd", b"abc")
    with pytest.raises(ModelError, match="the tensor 'abc' twice"):
        GgufReader(path)


def test_gguf_arrays_that_are_nested_deeply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.gguf"
    key = struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + key + struct.pack("<IQ", 9, 1) * 100_000)
    with pytest.raises(ModelError, match="nested more than 8 arrays deep"):
        GgufReader(path)


@pytest.mark.parametrize("count", [10**12, 5000])
def test_a_gguf_that_claims_more_layers_than_weights_is_refused_at_once(tmp_path: Path, count: int) -> None:
    path = tmp_path / "layers.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint64("llama.block_count", count)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(64)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(path, "block_count" if count > 10_000 else "only 1 weights")


def trainer_archive(path: Path) -> Path:
    torch.save({"model": {"w": torch.arange(64.0)}, "config": {"d_model": 8}}, path)
    return path


def rewritten(path: Path, compression: int, extra: bool = False) -> Path:
    """Write the records of an archive again, perhaps compressed, or with one of them twice."""
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    noticed = pytest.warns(UserWarning, match="Duplicate name") if extra else nullcontext()
    with noticed, zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records + (records[:1] if extra else []):
            archive.writestr(name, data)
    return path


def test_an_archive_that_torch_does_not_write_is_refused(tmp_path: Path) -> None:
    path = trainer_archive(tmp_path / "run.pt")
    assert torch.equal(dict(TrainerReader(path).tensors(torch.float32))["w"], torch.arange(64.0))
    with pytest.raises(ModelError, match="compressed records"):
        TrainerReader(rewritten(path, zipfile.ZIP_DEFLATED))
    with pytest.raises(ModelError, match="each record once"):
        TrainerReader(rewritten(trainer_archive(path), zipfile.ZIP_STORED, extra=True))


def test_a_damaged_archive_is_refused_by_its_checksums(tmp_path: Path) -> None:
    path = trainer_archive(tmp_path / "run.pt")
    values = torch.arange(64.0).numpy().tobytes()
    changed(path, values, values[:100] + b"\x01" + values[101:])
    reader = TrainerReader(path)
    with pytest.raises(ModelError, match="the values of w have another checksum"):
        list(reader.tensors(torch.float32))
    path = trainer_archive(path)
    changed(path, b"d_model", b"d_modem")
    with pytest.raises(ModelError, match="Bad CRC-32"):
        TrainerReader(path)
