"""The tokenizer of a Hugging Face directory, whichever files describe it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from roseinfer.errors import ModelError
from roseinfer.text.gguf_pretokenizers import PRE_TOKENIZERS
from roseinfer.text.huggingface import read_tokenizer_json
from roseinfer.text.sentencepiece_file import read_sentencepiece
from roseinfer.text.sentencepiece_vocabulary import build_tokenizer
from roseinfer.text.template_files import spelled_token
from roseinfer.weights.json_file import read_json, read_optional_json

WORDS_OF = {
    "GPT2Tokenizer": "gpt-2",
    "Qwen2Tokenizer": "qwen2",
    "gpt2": "gpt-2",
    "qwen2": "qwen2",
    "qwen3": "qwen2",
}
"""Pre-tokenizer of a vocab.json, by the `tokenizer_class` of tokenizer_config.json, else the `model_type`."""


def read_backend(
    path: Path, options: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """Return the tokenizer of a tokenizer.json, a SentencePiece model, or a vocab.json with its merges.txt.

    The second value has the ids of `bos_token` and `eos_token`, where they are named. `options` and `config` are the
    contents of tokenizer_config.json and config.json. Raises ModelError for a file that is broken, or whose rules are
    not known.
    """
    if path.name == "vocab.json":
        backend = _with_specials(_from_merges(path, options, config), path.parent, options, adds_bos=False)
    elif path.suffix == ".json":
        backend = read_tokenizer_json(path)
    else:
        content = read_sentencepiece(path)
        pieces, own = content.vocabulary.pieces, {"bos_token": content.bos_id, "eos_token": content.eos_id}
        options = {**{name: pieces[each] for name, each in own.items() if each is not None}, **options}
        try:
            backend = build_tokenizer(content.vocabulary)
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} is broken ({' '.join(str(error).split())}): download it again") from None
        backend = _with_specials(backend, path.parent, options, adds_bos=True)
    named = {name: backend.token_to_id(spelled_token(options.get(name))) for name in ("bos_token", "eos_token")}
    return backend, {name: token_id for name, token_id in named.items() if token_id is not None}


def _from_merges(path: Path, options: Mapping[str, Any], config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    kind = str(options.get("tokenizer_class") or config.get("model_type")).removesuffix("Fast")
    if kind not in WORDS_OF:
        raise ModelError(
            f"{path}: how a tokenizer of class {kind!r} splits words is not known: give a tokenizer.json"
            f" (known: {', '.join(WORDS_OF)})"
        )
    rules = PRE_TOKENIZERS[WORDS_OF[kind]]
    merges_path = path.with_name("merges.txt")
    try:
        lines = merges_path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ModelError(f"cannot read {merges_path}, which belongs to {path.name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{merges_path} is not UTF-8 text: download it again") from None
    pairs = [line.partition(" ") for line in lines if line.strip() and not line.startswith("#version")]
    try:
        model = models.BPE(vocab=read_json(path), merges=[(left, right) for left, _, right in pairs])
    except ModelError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise ModelError(f"{path} and merges.txt do not fit ({' '.join(str(error).split())}): download them") from None
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = rules.build()
    backend.decoder = decoders.ByteLevel()
    if rules.normalizes_to_nfc:
        backend.normalizer = normalizers.NFC()
    return backend


def _with_specials(
    backend: tokenizers.Tokenizer, folder: Path, options: Mapping[str, Any], *, adds_bos: bool
) -> tokenizers.Tokenizer:
    """Add the tokens of tokenizer_config.json or added_tokens.json, and BOS and EOS around a text if they say so."""
    for token_id, token in sorted(_added(folder, options).items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != token_id:
            raise ModelError(
                f"{folder}: the added token {token.content!r} has the id {token_id}, which does not follow the "
                "vocabulary: give a tokenizer.json"
            )
    first = [spelled_token(options.get("bos_token"))] if options.get("add_bos_token", adds_bos) else []
    last = [spelled_token(options.get("eos_token"))] if options.get("add_eos_token", False) else []
    known = [token for token in {*first, *last} if token and backend.token_to_id(token) is not None]
    if known:
        backend.post_processor = processors.TemplateProcessing(
            single=[*(token for token in first if token in known), "$A", *(token for token in last if token in known)],
            special_tokens=[(token, backend.token_to_id(token)) for token in known],
        )
    return backend


def _added(folder: Path, options: Mapping[str, Any]) -> dict[int, AddedToken]:
    declared = options.get("added_tokens_decoder")
    if isinstance(declared, Mapping):
        return {int(token_id): _token(entry) for token_id, entry in declared.items() if isinstance(entry, Mapping)}
    special = {spelled_token(options.get(key)) for key in options if key.endswith("_token")}
    listed = options.get("additional_special_tokens")
    special |= {spelled_token(token) for token in listed} if isinstance(listed, list) else set()
    return {
        token_id: AddedToken(token, special=token in special, normalized=False)
        for token, token_id in read_optional_json(folder / "added_tokens.json").items()
    }


def _token(entry: Mapping[str, Any]) -> AddedToken:
    flags = {key: bool(entry.get(key)) for key in ("special", "lstrip", "rstrip", "single_word")}
    return AddedToken(spelled_token(entry), normalized=False, **flags)
