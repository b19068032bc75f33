"""Tokenizers: GPT-2's, the demo model's, a small SentencePiece vocabulary, and one without bytes."""

from typing import Any

import pytest
import tokenizers
from hypothesis import settings
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from roseinfer.text.assets import TextAssets, load_text
from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf
from roseinfer.text.gpt2_tokenizer import Gpt2Tokenizer
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.weights.resolve import demo_gguf, resolve

# Hypothesis measures wall time per example, which depends on the machine's other load.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def gpt2() -> Gpt2Tokenizer:
    return Gpt2Tokenizer()


@pytest.fixture(scope="session")
def demo() -> TextAssets:
    return load_text(resolve("smollm2-135m", "auto", ()))


@pytest.fixture(scope="session")
def demo_tokenizer(demo: TextAssets) -> HuggingFaceTokenizer:
    assert isinstance(demo.tokenizer, HuggingFaceTokenizer)
    return demo.tokenizer


@pytest.fixture(scope="session")
def transformers_demo() -> Any:
    """The demo model's tokenizer, loaded by transformers."""
    from transformers import AutoTokenizer

    path = demo_gguf()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="session")
def sentencepiece_metadata() -> dict[str, Any]:
    """GGUF metadata of a small SentencePiece vocabulary: control tokens, 256 bytes, and pieces with scores."""
    words = ["the", "cat", "that", "sat", "hello", "naïve", "日本", "xyz", "aaaa", "012"]
    pieces = {piece: None for word in words for spelled in (word, "\u2581" + word) for piece in _substrings(spelled)}
    pieces |= dict.fromkeys(["\u2581", "\u2581" * 2, "\u2581" * 4, *"abcdefghijklmnopqrstuvwxyz'."])
    control, byte_tokens = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    ordered = sorted(pieces, key=lambda piece: (len(piece) < 2, -len(piece), piece))
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*control, *byte_tokens, *ordered],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(ordered),
        # Scores alone decide the order of merges, as in real vocabularies, whatever the length of the pieces.
        "tokenizer.ggml.scores": [0.0] * 259 + [-float((rank * 7919) % 1009) for rank in range(len(ordered))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@pytest.fixture(scope="session")
def sentencepiece(sentencepiece_metadata: dict[str, Any]) -> HuggingFaceTokenizer:
    tokenizer = tokenizer_from_gguf(sentencepiece_metadata)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="session")
def wordpieces() -> HuggingFaceTokenizer:
    """A vocabulary without access to bytes: Metaspace over words, with one special token."""
    words = [
        "<unk>",
        "<s>",
        "\u2581",
        "\u2581the",
        "\u2581cat",
        "s",
        "\u2581日本",
        "語",
        "\u2581👩",
        "\u2581\ufffd",
        "x",
    ]
    model = models.Unigram([(word, -float(rank)) for rank, word in enumerate(words)], unk_id=0)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return HuggingFaceTokenizer(tokenizer)


def _substrings(word: str) -> list[str]:
    return [word[start:end] for start in range(len(word)) for end in range(start + 1, len(word) + 1)]
