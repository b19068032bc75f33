"""llama.cpp's own test vectors: odd spaces, line breaks, digits, contractions and scripts, for each pre-tokenizer."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from roseinfer.text.gguf_pretokenizers import PRE_TOKENIZERS
from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf
from roseinfer.text.token_bytes import byte_alphabet

VECTORS: dict[str, dict[str, Any]] = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "llama_cpp_vectors.json.gz").read_bytes())
)


def metadata_of(vector: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a GGUF file with the reduced vocabulary."""
    if "pieces" in vector:
        tokens, scores, types = zip(*vector["pieces"], strict=True)
        fields = {"model": "llama", "scores": list(scores), "token_type": list(types)}
    else:
        made = dict.fromkeys("".join(line.split(" ")) for line in vector["merges"])
        expected = (token for tokens in vector["expected"] for token in tokens)
        tokens = tuple(dict.fromkeys([*sorted(byte_alphabet()), *made, *expected]))
        types = [4 if token in vector["defined"] else 1 for token in tokens]
        fields = {"model": "gpt2", "pre": vector["pre"], "merges": vector["merges"], "token_type": types}
    fields |= {"tokens": list(tokens), "add_bos_token": False}
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items()}


@pytest.mark.parametrize("name", VECTORS)
def test_every_text_has_the_tokens_of_llama_cpp(name: str) -> None:
    vector = VECTORS[name]
    metadata = metadata_of(vector)
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer is not None
    for text, expected in zip(vector["texts"], vector["expected"], strict=True):
        ids = tokenizer.encode(text)
        assert [metadata["tokenizer.ggml.tokens"][token_id] for token_id in ids] == expected, repr(text)


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if vector.get("pre") in PRE_TOKENIZERS])
def test_the_vectors_tell_pre_tokenizers_apart(name: str) -> None:
    """A check of the vectors: with the rules of another family, some text has other tokens."""
    vector = VECTORS[name]
    rules = PRE_TOKENIZERS[vector["pre"]].patterns
    other = next(pre for pre, each in PRE_TOKENIZERS.items() if each.patterns != rules and pre in ("gpt-2", "qwen2"))
    metadata = metadata_of(vector) | {"tokenizer.ggml.pre": other}
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer is not None
    tokens = metadata["tokenizer.ggml.tokens"]
    found = [[tokens[token_id] for token_id in tokenizer.encode(text)] for text in vector["texts"]]
    assert found != vector["expected"]
