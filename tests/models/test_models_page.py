"""Every spelling of --model on docs/models.md runs: on small models at the paths and names that the page has."""

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import gguf
import msgspec
import pytest
from huggingface_hub import constants
from test_architectures_gguf import write_gguf
from test_architectures_trainer import Trained, save
from tiny import save_llama
from tokenizers import pre_tokenizers

from roseinfer.cli.app import run
from roseinfer.models.architectures import ARCHITECTURES
from roseinfer.models.shapes import SHAPES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
sys.path.insert(0, str(ROOT / "tests" / "weights"))

from code_blocks import blocks  # noqa: E402
from hub_server import HubServer, Repository  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
COMMANDS = [command.text for block in blocks(PAGE) if "by hand" in block.marks for command in block.commands]
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "<s>", "</s>"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the paths of the page, each a tiny model."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("page")
    (folder / "models").mkdir()
    saved = save_llama(folder / "models" / "Qwen3-0.6B", vocab_size=len(TOKENS))
    whole = write_gguf(LlamaForCausalLM.from_pretrained(saved), folder / "models" / "Qwen3-0.6B-Q8_0.gguf", add_tokens)
    split(whole, folder / "models" / "Qwen3-8B.gguf")
    save(Trained(), folder / "models" / "checkpoint.pt")
    return folder


@pytest.fixture
def hub(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with the repositories of the page, and an empty cache."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        directory = models / "models" / "Qwen3-0.6B"
        server.repositories["Qwen/Qwen3-0.6B"] = Repository()
        server.repositories["Qwen/Qwen3-0.6B"].commit({p.name: p.read_bytes() for p in directory.iterdir()}, "main")
        file = models / "models" / "Qwen3-0.6B-Q8_0.gguf"
        server.repositories["Qwen/Qwen3-0.6B-GGUF"] = Repository()
        server.repositories["Qwen/Qwen3-0.6B-GGUF"].commit({file.name: file.read_bytes()}, "main")
        yield server
        server.shutdown()


def test_the_page_has_every_spelling() -> None:
    values = {word for command in COMMANDS for before, word in pairwise(shlex.split(command)) if before == "--model"}
    assert len(values) == 11
    assert {Path(value).suffix for value in values} >= {".gguf", ".pt"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.partition("--model ")[2].split()[0])
def test_a_command_of_the_page_runs(
    command: str, models: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(models)
    small = {"num_layers": 1, "hidden_size": 16, "intermediate_size": 8, "vocab_size": 32, "head_dim": 4}
    monkeypatch.setitem(SHAPES, "qwen3-0.6b", msgspec.structs.replace(SHAPES["qwen3-0.6b"], **small))
    words = shlex.split(command)
    if "generate" in words:
        words += ["--max-new-tokens", "2"]
    monkeypatch.setattr(sys, "argv", [*words, "--json", "--quiet", "--device", "cpu"])
    assert run() == 0
    document = json.loads(capsys.readouterr().out)
    if "generate" in words:
        assert len(document["outputs"][0]["token_ids"]) in (1, 2)


def test_the_catalogue_is_that_of_the_registries(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llama = ARCHITECTURES["llama"]
    monkeypatch.setitem(ARCHITECTURES, "new", replace(llama, name="new", gguf_name="newer"))
    monkeypatch.setattr(sys, "argv", ["roseinfer", "models", "--json"])
    assert run() == 0
    found = json.loads(capsys.readouterr().out)
    entries = {each.pop("model_type"): each for each in found["architectures"]}
    assert entries["new"] == {"gguf": "newer", "trainer": False}
    assert entries["gpt2"] == {"gguf": "gpt2", "trainer": True}
    assert {"type": "Q4_K", "cpu": "its 4-bit groups", "gpu": "dequantized"} in found["quantizations"]
    assert {"setting": "--quantize int8", "cpu": True, "gpu": False} in found["settings"]
    assert found["shapes"] == list(SHAPES)


def add_tokens(writer: gguf.GGUFWriter) -> None:
    """Add a byte-level vocabulary to a GGUF file."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 2) + [3, 3])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(len(TOKENS) - 2)
    writer.add_eos_token_id(len(TOKENS) - 1)


def split(whole: Path, path: Path) -> None:
    """Write the tensors of a GGUF file to two files, as llama.cpp's gguf-split does."""
    reader = gguf.GGUFReader(whole)
    half = len(reader.tensors) // 2 + 1
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=half)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kinds = [*field.types, None]
        writer.add_key_value(field.name, field.contents(), kinds[0], kinds[1])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
