"""`--tokenizer` accepts tiktoken rank files, a tokenizer.json, and `gpt2`."""

import base64
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiktoken
from hypothesis import given
from unicode_text import texts

from roseinfer.errors import ModelError, UsageError
from roseinfer.text.assets import load_text
from roseinfer.text.gpt2_tokenizer import GPT2_RANKS, Gpt2Tokenizer, read_ranks
from roseinfer.text.pretokenizer_patterns import LLAMA3_WORDS
from roseinfer.text.rank_file import END_OF_TEXT, VOCABULARIES, TiktokenTokenizer, rank_checksum, tokenizer_from_ranks
from roseinfer.weights.resolve import resolve

BYTES = [bytes([byte]) for byte in range(256)]
SHAPE = resolve("llama-3-8b", "dummy", ("llama-3-8b",))


def write_ranks(path: Path, tokens: list[bytes]) -> Path:
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)))
    return path


def filled(count: int) -> list[bytes]:
    """Return `count` tokens: the bytes, some words, and fillers."""
    words = [b"he", b"ll", b"hell", b"hello", b" w", b" wo"]
    return [*BYTES, *words, *(f"filler{number}".encode() for number in range(count - 256 - len(words)))]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[bytes]], None]:
    """A function that makes a list of tokens the published file of its size."""

    def make(tokens: list[bytes]) -> None:
        checksum = rank_checksum({token: rank for rank, token in enumerate(tokens)})
        published = msgspec.structs.replace(VOCABULARIES[len(tokens)], sha256=checksum)
        monkeypatch.setitem(VOCABULARIES, len(tokens), published)

    return make


def test_the_checksum_is_that_of_the_published_file() -> None:
    assert hashlib.sha256(GPT2_RANKS.read_bytes()).hexdigest() == rank_checksum(read_ranks(GPT2_RANKS))
    assert rank_checksum(read_ranks(GPT2_RANKS)) == VOCABULARIES[50256].sha256


def test_a_file_of_unknown_size_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = write_ranks(tmp_path / "small.tiktoken", [*BYTES, b"he", b"ll", b"hell"])
    with pytest.raises(ModelError, match=r"has 259 ranks.*tokenizer\.json.*cl100k_base \(100,256\).*Llama 4"):
        tokenizer_from_ranks(path)


def test_a_file_of_a_known_size_with_other_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"as many ranks as GPT-2, 50,256, but other tokens"):
        tokenizer_from_ranks(write_ranks(tmp_path / "other.tiktoken", filled(50256)))


def test_the_order_and_the_ends_of_lines_do_not_matter(tmp_path: Path, gpt2: Gpt2Tokenizer) -> None:
    lines = GPT2_RANKS.read_text().splitlines()
    (tmp_path / "gpt2.tiktoken").write_bytes("\r\n".join(reversed(lines)).encode())
    assert tokenizer_from_ranks(tmp_path / "gpt2.tiktoken").encode("Hello world") == gpt2.encode("Hello world")


@given(text=texts)
def test_gpt2s_file_gives_gpt2s_tokenizer(text: str, gpt2: Gpt2Tokenizer) -> None:
    assert from_gpt2_file().encode(text) == gpt2.encode(text)


def test_gpt2_is_a_name_for_any_model(gpt2: Gpt2Tokenizer) -> None:
    text = load_text(SHAPE, tokenizer="gpt2")
    assert isinstance(text.tokenizer, Gpt2Tokenizer)
    assert text.eos_token_ids == from_gpt2_file().eos_token_ids == gpt2.eos_token_ids


@cache
def from_gpt2_file() -> TiktokenTokenizer:
    return tokenizer_from_ranks(GPT2_RANKS)


def test_llama_3s_file_splits_as_llama_3_and_has_its_control_tokens(
    tmp_path: Path, known: Callable[[list[bytes]], None]
) -> None:
    known(tokens := filled(128000))
    tokenizer = tokenizer_from_ranks(write_ranks(tmp_path / "tokenizer.model", tokens))
    oracle = tiktoken.Encoding(
        "oracle", pat_str=LLAMA3_WORDS, mergeable_ranks={t: r for r, t in enumerate(tokens)}, special_tokens={}
    )
    assert tokenizer.encode("hello 12345") == [128000, *oracle.encode_ordinary("hello 12345")]
    chat = tokenizer.encode("<|begin_of_text|><|start_header_id|>user<|eot_id|>", allow_special=True)
    assert (chat[:2], chat[-1]) == ([128000, 128006], 128009)
    assert tokenizer.decode(chat) == "user"
    assert (tokenizer.vocab_size, tokenizer.eos_token_ids) == (128256, {128001, 128008, 128009})


def test_qwens_file_has_its_chat_tokens(tmp_path: Path, known: Callable[[list[bytes]], None]) -> None:
    known(tokens := filled(151643))
    tokenizer = tokenizer_from_ranks(write_ranks(tmp_path / "qwen.tiktoken", tokens))
    assert tokenizer.encode("<|im_start|>hello<|im_end|>", allow_special=True) == [151644, 259, 151645]
    assert 151644 not in tokenizer.encode("<|im_start|>")
    assert tokenizer.eos_token_ids == {151643, 151645}


BROKEN = {
    "a text": b"Just some words.\n",
    "no base64": b"!!!! 0\n",
    "a token twice": b"".join(base64.b64encode(byte) + b" 0\n" for byte in BYTES),
    "too few bytes": b"YQ== 0\n",
    "nothing": b"",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("size", [100256, 199998, 200000])
def test_other_published_files_have_words_and_control_tokens_that_work(size: int) -> None:
    vocabulary = VOCABULARIES[size]
    ranks = {token: rank for rank, token in enumerate(filled(1000))}
    tokenizer = TiktokenTokenizer("small", ranks, vocabulary)
    assert tokenizer.decode(tokenizer.encode("hello  World's 12345\r\n\n x")) == "hello  World's 12345\r\n\n x"
    assert (
        tokenizer.encode(END_OF_TEXT if size < 200000 else "<|eot|>", allow_special=True)[0] in tokenizer.eos_token_ids
    )
    assert max(vocabulary.control.values()) < vocabulary.vocab_size


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_not_a_rank_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.tiktoken"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.tiktoken"):
        load_text(SHAPE, tokenizer=str(path))


@pytest.mark.parametrize("name", ["gpt3", "none/tokenizer.json", "x" * 5000])
def test_a_name_that_is_no_file_says_what_to_give(name: str) -> None:
    with pytest.raises(UsageError, match=r"gpt2, a tokenizer\.json, .* tokenizer\.model, .* a tiktoken file"):
        load_text(SHAPE, tokenizer=name)


def test_a_tokenizer_json_replaces_a_models_own_which_may_be_broken(tmp_path: Path, transformers_demo: Any) -> None:
    model, other = tmp_path / "model", tmp_path / "other"
    transformers_demo.save_pretrained(other)
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    (model / "tokenizer.json").write_text("broken")
    (model / "chat_template.jinja").write_text("the model's")
    text = load_text(resolve(str(model), "dummy", ()), tokenizer=str(other / "tokenizer.json"))
    assert text.tokenizer is not None
    assert text.tokenizer.encode("Hello world") == transformers_demo.encode("Hello world")
    assert text.chat_template is not None
    assert text.chat_template.render([]) == "the model's"
    # EOS tokens are those of the model and those of the tokenizer's files.
    assert text.eos_token_ids == {7, 2}
