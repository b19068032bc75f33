"""Load a model's tokenizer, chat template and special tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.errors import UsageError
from roseinfer.text.chat_template import ChatTemplate
from roseinfer.text.gguf_token_types import eos_token_ids
from roseinfer.text.template_files import template_sources
from roseinfer.text.tokenizer import Tokenizer
from roseinfer.weights.gguf_header import read_gguf_header
from roseinfer.weights.json_file import read_optional_json
from roseinfer.weights.resolve import ModelSource


class TextAssets(msgspec.Struct, frozen=True, kw_only=True):
    """Tokenizer, chat template and special tokens of a model.

    Without a tokenizer, prompts and completions are token ids.
    """

    tokenizer: Tokenizer | None = None
    chat_template: ChatTemplate | None = None
    bos_token_id: int | None = None
    eos_token_ids: frozenset[int] = frozenset()
    """Tokens that end a completion: the union of all that the model's files name."""


def load_text(
    source: ModelSource, gguf_metadata: Mapping[str, Any] | None = None, tokenizer: str | None = None
) -> TextAssets:
    """Load the tokenizer, the chat template and the special tokens of a model.

    `gguf_metadata` avoids parsing the header of a GGUF file again when its reader is open already.

    `tokenizer` names a replacement for the model's own tokenizer, which is then not read at all: `gpt2`, a
    tokenizer.json, or a tiktoken rank file. The model's chat template and EOS tokens still apply. Raises UsageError for
    a replacement that does not exist, and ModelError for a tokenizer or a template that cannot be used.
    """
    if tokenizer is not None:
        return _combined(_from_model(source, gguf_metadata, with_tokenizer=False), _from_option(tokenizer))
    return _from_model(source, gguf_metadata, with_tokenizer=True)


def _from_model(source: ModelSource, gguf_metadata: Mapping[str, Any] | None, *, with_tokenizer: bool) -> TextAssets:
    if source.path is None:
        return _for_shape(source.shape) if with_tokenizer else TextAssets()
    if source.format == "gguf":
        metadata = gguf_metadata if gguf_metadata is not None else read_gguf_header(source.path).metadata
        return _from_gguf(metadata, with_tokenizer)
    if not source.path.is_dir():
        return TextAssets()  # a trainer's checkpoint has no text side
    return _from_directory(source.path, source.path / "tokenizer.json" if with_tokenizer else None)


def _from_option(name: str) -> TextAssets:
    """Load the tokenizer that `--tokenizer` names, with the template and special tokens in the same directory."""
    if name == "gpt2":
        return _for_shape(name)
    path = Path(name)
    try:
        is_file = path.is_file()
    except OSError:  # a name too long for a path
        is_file = False
    if not is_file:
        raise UsageError(f"unknown --tokenizer {name!r}: give gpt2, a tokenizer.json, or a tiktoken file")
    if path.suffix == ".json":
        return _from_directory(path.parent, path)
    from roseinfer.text.rank_file import tokenizer_from_ranks

    tokenizer = tokenizer_from_ranks(path)
    return TextAssets(tokenizer=tokenizer, bos_token_id=tokenizer.bos_token_id, eos_token_ids=tokenizer.eos_token_ids)


def _combined(model: TextAssets, named: TextAssets) -> TextAssets:
    """Combine a model's template and EOS tokens with the tokenizer that `--tokenizer` names."""
    return TextAssets(
        tokenizer=named.tokenizer,
        chat_template=model.chat_template or named.chat_template,
        bos_token_id=named.bos_token_id,
        eos_token_ids=model.eos_token_ids | named.eos_token_ids,
    )


def _for_shape(shape: str | None) -> TextAssets:
    """Return the assets of a built-in shape; empty except for `gpt2`, whose tokenizer ships with the package."""
    if shape != "gpt2":
        return TextAssets()
    from roseinfer.text.gpt2_tokenizer import Gpt2Tokenizer

    tokenizer = Gpt2Tokenizer()
    return TextAssets(tokenizer=tokenizer, bos_token_id=tokenizer.bos_token_id, eos_token_ids=tokenizer.eos_token_ids)


def _from_gguf(metadata: Mapping[str, Any], with_tokenizer: bool) -> TextAssets:
    from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf

    tokenizer = tokenizer_from_gguf(metadata) if with_tokenizer else None
    if with_tokenizer and tokenizer is None:
        return TextAssets()
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens") or []

    def spelled(key: str) -> str:
        token_id = metadata.get(f"tokenizer.ggml.{key}")
        return tokens[token_id] if token_id is not None and token_id < len(tokens) else ""

    template = metadata.get("tokenizer.chat_template")
    return TextAssets(
        tokenizer=tokenizer,
        chat_template=ChatTemplate(template, spelled("bos_token_id"), spelled("eos_token_id")) if template else None,
        bos_token_id=tokenizer.bos_token_id if tokenizer is not None else None,
        eos_token_ids=eos_token_ids(metadata),
    )


def _from_directory(folder: Path, tokenizer_json: Path | None) -> TextAssets:
    """Load the chat template, the special tokens and, from `tokenizer_json`, the tokenizer of a Hugging Face directory.

    If `tokenizer_json` is None, no tokenizer is loaded. If the file does not exist, only the special tokens are.
    """
    config = read_optional_json(folder / "config.json")
    generation = read_optional_json(folder / "generation_config.json")
    options = read_optional_json(folder / "tokenizer_config.json")
    bos_ids = _token_ids(generation.get("bos_token_id")) or _token_ids(config.get("bos_token_id"))
    eos_ids = _token_ids(generation.get("eos_token_id")) | _token_ids(config.get("eos_token_id"))
    bos_id = min(bos_ids, default=None)
    if tokenizer_json is not None and not tokenizer_json.is_file():
        return TextAssets(bos_token_id=bos_id, eos_token_ids=eos_ids)
    bos_token, eos_token = _spelled(options.get("bos_token")), _spelled(options.get("eos_token"))
    templates = template_sources(folder, options)
    chat_template = ChatTemplate(templates, bos_token, eos_token) if templates else None
    if tokenizer_json is None:
        return TextAssets(chat_template=chat_template, bos_token_id=bos_id, eos_token_ids=eos_ids)
    from roseinfer.text.huggingface import HuggingFaceTokenizer, read_tokenizer_json

    backend = read_tokenizer_json(tokenizer_json)
    bos_id = backend.token_to_id(bos_token) if bos_token else bos_id
    eos_ids |= _token_ids(backend.token_to_id(eos_token) if eos_token else None)
    return TextAssets(
        tokenizer=HuggingFaceTokenizer(backend, bos_id, eos_ids),
        chat_template=chat_template,
        bos_token_id=bos_id,
        eos_token_ids=eos_ids,
    )


def _token_ids(value: Any) -> frozenset[int]:
    """Return the token ids of a config entry, which is an id, a list of ids, or null."""
    if isinstance(value, int):
        return frozenset({value})
    return frozenset(value) if isinstance(value, list) else frozenset()


def _spelled(token: Any) -> str:
    """Return the text of a token in tokenizer_config.json: a text, an object with `content`, or null (empty)."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
