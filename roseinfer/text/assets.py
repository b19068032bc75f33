"""All text parts of a model: its tokenizer, its chat template, its special tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.text.chat import ChatTemplate
from roseinfer.text.tokenizer import Tokenizer
from roseinfer.weights.gguf_header import read_gguf_header
from roseinfer.weights.json_file import read_optional_json
from roseinfer.weights.resolve import ModelSource


class TextAssets(msgspec.Struct, frozen=True, kw_only=True):
    """What a model brings for text. Without a tokenizer, prompts are token ids."""

    tokenizer: Tokenizer | None = None
    chat_template: ChatTemplate | None = None
    bos_token_id: int | None = None
    eos_token_ids: frozenset[int] = frozenset()
    """The tokens that end a completion, from everything the model says about it."""


def load_text(source: ModelSource, gguf_metadata: Mapping[str, Any] | None = None) -> TextAssets:
    """The text parts of a model.

    `gguf_metadata` spares a second look into a GGUF whose reader is open already. Raises ModelError for a tokenizer
    or a template that cannot be used.
    """
    if source.path is None:
        return _for_shape(source.shape)
    if source.format == "gguf":
        return _from_gguf(gguf_metadata if gguf_metadata is not None else read_gguf_header(source.path).metadata)
    return _from_directory(source.path)


def _for_shape(shape: str | None) -> TextAssets:
    """Of the built-in shapes, only GPT-2 has a tokenizer that ships with roseinfer."""
    if shape != "gpt2":
        return TextAssets()
    from roseinfer.text.gpt2 import Gpt2Tokenizer

    tokenizer = Gpt2Tokenizer()
    return TextAssets(tokenizer=tokenizer, bos_token_id=tokenizer.bos_token_id, eos_token_ids=tokenizer.eos_token_ids)


def _from_gguf(metadata: Mapping[str, Any]) -> TextAssets:
    from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf

    tokenizer = tokenizer_from_gguf(metadata)
    if tokenizer is None:
        return TextAssets()
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]

    def spelled(key: str) -> str:
        token_id = metadata.get(f"tokenizer.ggml.{key}")
        return tokens[token_id] if token_id is not None and token_id < len(tokens) else ""

    template = metadata.get("tokenizer.chat_template")
    return TextAssets(
        tokenizer=tokenizer,
        chat_template=ChatTemplate(template, spelled("bos_token_id"), spelled("eos_token_id")) if template else None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_ids=tokenizer.eos_token_ids,
    )


def _from_directory(folder: Path) -> TextAssets:
    config = read_optional_json(folder / "config.json")
    generation = read_optional_json(folder / "generation_config.json")
    options = read_optional_json(folder / "tokenizer_config.json")
    bos_ids = _token_ids(generation.get("bos_token_id")) or _token_ids(config.get("bos_token_id"))
    eos_ids = _token_ids(generation.get("eos_token_id")) | _token_ids(config.get("eos_token_id"))
    if not (folder / "tokenizer.json").is_file():
        return TextAssets(bos_token_id=min(bos_ids, default=None), eos_token_ids=eos_ids)
    from roseinfer.text.huggingface import HuggingFaceTokenizer, read_tokenizer_json

    backend = read_tokenizer_json(folder / "tokenizer.json")
    bos_token, eos_token = _spelled(options.get("bos_token")), _spelled(options.get("eos_token"))
    bos_id = backend.token_to_id(bos_token) if bos_token else min(bos_ids, default=None)
    eos_ids |= _token_ids(backend.token_to_id(eos_token) if eos_token else None)
    template = _template_source(folder, options)
    return TextAssets(
        tokenizer=HuggingFaceTokenizer(backend, bos_id, eos_ids),
        chat_template=ChatTemplate(template, bos_token, eos_token) if template else None,
        bos_token_id=bos_id,
        eos_token_ids=eos_ids,
    )


def _template_source(folder: Path, options: Mapping[str, Any]) -> str | None:
    """chat_template.jinja where there is one, else tokenizer_config.json's: a text, or a list of named ones."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    template = options.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _token_ids(value: Any) -> frozenset[int]:
    """A config's token id: one, a list of them, or null."""
    if isinstance(value, int):
        return frozenset({value})
    return frozenset(value) if isinstance(value, list) else frozenset()


def _spelled(token: Any) -> str:
    """A tokenizer_config's token: its text, an object with the text as `content`, or null."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
