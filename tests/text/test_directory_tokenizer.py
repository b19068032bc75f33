"""Directories without a tokenizer.json: vocab.json with merges.txt, and rank files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from test_gguf_vocabulary import RANKS, byte_level_metadata
from unicode_text import texts

from roseinfer.errors import ModelError
from roseinfer.text.assets import load_text
from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf
from roseinfer.text.gpt2_tokenizer import GPT2_RANKS, Gpt2Tokenizer
from roseinfer.text.tokenizer import Tokenizer
from roseinfer.weights.resolve import resolve


def write(folder: Path, *, tokenizer_class: str | None, **options: Any) -> Path:
    """Write a small byte-level vocabulary as slow tokenizers of transformers save it."""
    folder.mkdir(exist_ok=True)
    metadata = byte_level_metadata("gpt-2")
    *tokens, end = metadata["tokenizer.ggml.tokens"]
    (folder / "vocab.json").write_text(json.dumps({token: token_id for token_id, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(metadata["tokenizer.ggml.merges"]) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps({end: len(tokens)}))
    named = {} if tokenizer_class is None else {"tokenizer_class": tokenizer_class}
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": end, **named, **options}))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    return folder


def loaded(folder: Path, tokenizer: str | None = None) -> Tokenizer:
    found = load_text(resolve(str(folder), "dummy", ()), tokenizer=tokenizer).tokenizer
    assert found is not None
    return found


@pytest.fixture(scope="module", params=[("GPT2Tokenizer", "gpt-2"), ("Qwen2TokenizerFast", "qwen2"), (None, "qwen2")])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """A directory's tokenizer, and that of a GGUF file with the same vocabulary."""
    tokenizer_class, pre = request.param
    folder = write(tmp_path_factory.mktemp("folder"), tokenizer_class=tokenizer_class)
    other = tokenizer_from_gguf(byte_level_metadata(pre))
    assert other is not None
    return loaded(folder), other


@settings(max_examples=30)
@given(text=texts)
def test_words_split_as_the_class_or_else_the_model_type_says(text: str, both: tuple[Tokenizer, Tokenizer]) -> None:
    ours, other = both
    assert ours.encode(text) == other.encode(text)
    assert ours.encode(text + "<|end|>", allow_special=True)[-1] == len(RANKS)
    assert ours.eos_token_ids == {len(RANKS)}


def test_a_class_whose_words_are_not_known_is_refused(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_class="CodeGenTokenizer")
    with pytest.raises(ModelError, match="'CodeGenTokenizer' splits words is not known"):
        loaded(tmp_path)


def test_missing_or_wrong_merges_are_named(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_class="GPT2Tokenizer")
    (tmp_path / "merges.txt").write_text("no merge\nof this vocabulary\n")
    with pytest.raises(ModelError, match=r"vocab\.json and merges\.txt do not fit"):
        loaded(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"cannot read .*merges\.txt, which belongs to vocab\.json"):
        loaded(tmp_path)


def test_a_rank_file_in_a_directory_is_found_by_either_name(tmp_path: Path, gpt2: Gpt2Tokenizer) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("gpt2.tiktoken", "tokenizer.model"):
        shutil.copy(GPT2_RANKS, tmp_path / name)
        assert loaded(tmp_path).encode("Hello world") == gpt2.encode("Hello world")
        (tmp_path / name).unlink()


def test_the_tokenizer_option_takes_a_file_or_a_directory(tmp_path: Path) -> None:
    folder = write(tmp_path / "tokenizer", tokenizer_class="GPT2Tokenizer")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    expected = loaded(folder).encode("hello there")
    for name in (folder, folder / "vocab.json"):
        assert loaded(model, str(name)).encode("hello there") == expected
