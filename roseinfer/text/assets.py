"""Load a model's tokenizer, chat template and special tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from roseinfer.errors import UsageError
from roseinfer.text.chat_template import ChatTemplate
from roseinfer.text.gguf_token_types import eos_token_ids
from roseinfer.text.template_files import spelled_token, template_sources
from roseinfer.text.tokenizer import Tokenizer
from roseinfer.weights.gguf_header import read_gguf_header
from roseinfer.weights.hub_files import TOKENIZER_FILES
from roseinfer.weights.json_file import read_optional_json
from roseinfer.weights.resolve import ModelSource

_WHAT_A_TOKENIZER_IS = (
    "gpt2, a tokenizer.json, a SentencePiece tokenizer.model, a vocab.json with its merges.txt, a tiktoken file, or a "
    "directory with one of these"
)


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

    `tokenizer` names a replacement for the model's own tokenizer, which is then not read at all: `gpt2`, the file of a
    tokenizer, or its directory. The model's chat template and EOS tokens still apply. Raises UsageError for
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
    tokenizer_file = _tokenizer_file(source.path) if with_tokenizer else None
    text = _from_directory(source.path, tokenizer_file)
    # Without a tokenizer there is no text for a template.
    return msgspec.structs.replace(text, chat_template=None) if with_tokenizer and tokenizer_file is None else text


def _from_option(name: str) -> TextAssets:
    """Load the tokenizer that `--tokenizer` names, with the template and special tokens in the same directory."""
    if name == "gpt2":
        return _for_shape(name)
    path = Path(name)
    try:
        file = _tokenizer_file(path) if path.is_dir() else path if path.is_file() else None
    except OSError:  # a name too long for a path
        file = None
    if file is None:
        raise UsageError(f"unknown --tokenizer {name!r}: give {_WHAT_A_TOKENIZER_IS}")
    return _from_directory(file.parent, file)


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
        eos_token_ids=eos_token_ids(metadata) if tokenizer is None else tokenizer.eos_token_ids,
    )


def _from_directory(folder: Path, tokenizer_file: Path | None) -> TextAssets:
    """Load the chat template, the special tokens and, from `tokenizer_file`, the tokenizer of a Hugging Face directory.

    If `tokenizer_file` is None, no tokenizer is loaded.
    """
    config = read_optional_json(folder / "config.json")
    generation = read_optional_json(folder / "generation_config.json")
    options = read_optional_json(folder / "tokenizer_config.json")
    bos_ids = _token_ids(generation.get("bos_token_id")) or _token_ids(config.get("bos_token_id"))
    eos_ids = _token_ids(generation.get("eos_token_id")) | _token_ids(config.get("eos_token_id"))
    bos_id = min(bos_ids, default=None)
    bos_token, eos_token = spelled_token(options.get("bos_token")), spelled_token(options.get("eos_token"))
    templates = template_sources(folder, options)
    chat_template = ChatTemplate(templates, bos_token, eos_token) if templates else None
    if tokenizer_file is None:
        return TextAssets(chat_template=chat_template, bos_token_id=bos_id, eos_token_ids=eos_ids)
    tokenizer: Tokenizer
    if _is_rank_file(tokenizer_file):
        from roseinfer.text.rank_file import tokenizer_from_ranks

        ranked = tokenizer_from_ranks(tokenizer_file)
        tokenizer, bos_id, eos_ids = ranked, ranked.bos_token_id, eos_ids | ranked.eos_token_ids
    else:
        from roseinfer.text.directory_tokenizer import read_backend
        from roseinfer.text.huggingface import HuggingFaceTokenizer

        backend, named = read_backend(tokenizer_file, options, config)
        bos_id = named.get("bos_token", bos_id)
        eos_ids |= _token_ids(named.get("eos_token"))
        tokenizer = HuggingFaceTokenizer(backend, bos_id, eos_ids)
    return TextAssets(tokenizer=tokenizer, chat_template=chat_template, bos_token_id=bos_id, eos_token_ids=eos_ids)


def _tokenizer_file(folder: Path) -> Path | None:
    """Return the file that describes a directory's tokenizer, the most specific one first; None if there is none."""
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return next(iter([*found, *sorted(folder.glob("*.tiktoken"))]), None)


def _is_rank_file(path: Path) -> bool:
    if path.suffix == ".json":
        return False
    from roseinfer.text.sentencepiece_file import is_sentencepiece

    return not is_sentencepiece(path)


def _token_ids(value: Any) -> frozenset[int]:
    """Return the token ids of a config entry, which is an id, a list of ids, or null."""
    if isinstance(value, int):
        return frozenset({value})
    return frozenset(value) if isinstance(value, list) else frozenset()
