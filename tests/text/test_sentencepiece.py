"""A tokenizer.model is encoded as the sentencepiece package encodes it."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicode_text import texts

from roseinfer.errors import ModelError
from roseinfer.text.assets import TextAssets, load_text
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.text.sentencepiece_file import read_sentencepiece
from roseinfer.text.sentencepiece_vocabulary import build_tokenizer
from roseinfer.weights.resolve import resolve

# The package is a reference for these tests only, and part of `.[test]`.
sentencepiece = pytest.importorskip("sentencepiece")

ALICE = Path(__file__).parents[1] / "data" / "alice.txt"
KINDS: dict[str, dict[str, Any]] = {
    # As Llama 2 and Mistral: text is not normalized, and bytes stand for unknown characters.
    "bpe, as it is": {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "bpe, normalized": {
        "model_type": "bpe",
        "byte_fallback": True,
        "user_defined_symbols": ["<ud>", "wor"],
        "control_symbols": ["<ctl>"],
    },
    "unigram, as it is": {
        "model_type": "unigram",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["<ud>", "wor"],
    },
    "unigram, without a first space": {"model_type": "unigram", "byte_fallback": True, "add_dummy_prefix": False},
}
ODD = [
    " ",
    "  ",
    "   ",
    "\n",
    "\t",
    "Alice",
    " the",
    "é",
    "日本",
    "👩‍👧",
    ".",
    "12",
    "\u2581",
    "<s>",
    "</s>",
    "<0x0A>",
    "<ud>",
    "word",
]
odd_texts = st.lists(st.sampled_from(ODD), max_size=12).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, trained on a book."""
    prefix = tmp_path_factory.mktemp("model") / "m"
    lines = [line for line in ALICE.read_text(encoding="utf-8").splitlines() if line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(prefix), vocab_size=600, minloglevel=2, **KINDS[request.param]
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="module")
def ours(model: Path) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(build_tokenizer(read_sentencepiece(model).vocabulary))


@pytest.fixture(scope="module")
def theirs(model: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


@settings(max_examples=50)
@given(text=st.one_of(texts, odd_texts).filter(lambda text: "\0" not in text))
def test_ids_are_those_of_the_package(text: str, ours: HuggingFaceTokenizer, theirs: Any) -> None:
    assert ours.encode(text) == theirs.encode(text)


def test_200_texts_with_odd_spaces(ours: HuggingFaceTokenizer, theirs: Any) -> None:
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices(ODD, k=draw.randint(0, 10)))
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        if theirs.unk_id() not in ids:  # the package has a mark of its own for unknown tokens
            assert ours.decode(ids) == theirs.decode(ids)


class TestDirectory:
    @pytest.fixture
    def folder(self, model: Path, tmp_path: Path) -> Path:
        shutil.copy(model, tmp_path / "tokenizer.model")
        (tmp_path / "config.json").write_text("{}")
        return tmp_path

    def text_of(self, folder: Path) -> TextAssets:
        return load_text(resolve(str(folder), "dummy", ()))

    def test_the_model_alone_names_bos_and_eos_and_adds_bos(self, folder: Path, theirs: Any) -> None:
        tokenizer = self.text_of(folder).tokenizer
        assert tokenizer is not None
        assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, frozenset({2}))
        assert tokenizer.encode("Alice was") == [1, *theirs.encode("Alice was")]
        assert tokenizer.encode("<s>Alice</s>", allow_special=True) == [1, *theirs.encode("Alice"), 2]

    def test_the_config_adds_tokens_and_decides_about_bos_and_eos(self, folder: Path, theirs: Any) -> None:
        size = theirs.get_piece_size()
        added = {str(size): {"content": "<|user|>", "special": True}, "2": {"content": "</s>", "special": True}}
        options = {"added_tokens_decoder": added, "add_bos_token": False, "add_eos_token": True, "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(options))
        tokenizer = self.text_of(folder).tokenizer
        assert tokenizer is not None
        assert tokenizer.encode("Alice") == [*theirs.encode("Alice"), 2]
        assert tokenizer.encode("<|user|>", allow_special=True) == [size]
        assert tokenizer.vocab_size == size + 1

    def test_an_added_token_with_another_id_is_refused(self, folder: Path) -> None:
        (folder / "added_tokens.json").write_text(json.dumps({"<|user|>": 10_000}))
        with pytest.raises(ModelError, match=r"added token '<\|user\|>' has the id 10000"):
            self.text_of(folder)


@pytest.mark.parametrize("content", [b"", b"\n", b"\n\xff\xff", b"\n\x05hello", b"\n\x02\x0a\x00" * 3 + b"\x1a\x7f"])
def test_a_damaged_file_is_a_model_error_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.model") as caught:
        load_text(resolve(str(tmp_path), "dummy", ()))
    assert "\n" not in str(caught.value)
