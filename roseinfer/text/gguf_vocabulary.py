"""Building tokenizers from the vocabulary in a GGUF file's metadata.

Two kinds of vocabulary are supported. `gpt2` is byte-level BPE: the file holds the merges, and the name of a
pre-tokenizer. `llama` is SentencePiece BPE: the file holds a score per token.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from roseinfer.errors import ModelError
from roseinfer.text.gguf_pretokenizers import PRE_TOKENIZERS
from roseinfer.text.gguf_token_types import CONTROL, NORMAL, USER_DEFINED, eos_token_ids, token_types
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.text.sentencepiece_vocabulary import SentencePieces, build_tokenizer

_OTHER_KINDS = {
    "bert": "WordPiece, of encoders",
    "t5": "Unigram, of encoder-decoders",
    "rwkv": "a trie of words",
    "plamo2": "Unigram with a table of suffixes",
    "gemma4": "BPE over characters",
}
"""Kinds of llama.cpp that no supported architecture uses, with what they are."""


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> HuggingFaceTokenizer | None:
    """Build the tokenizer that a GGUF file's metadata describes; return None if the metadata has no tokenizer.

    Raises ModelError, with the list of supported kinds, for any other kind of vocabulary.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None or kind == "none":
        return None
    if kind not in _BUILDERS:
        what = f" ({_OTHER_KINDS[kind]})" if kind in _OTHER_KINDS else ""
        raise ModelError(f"GGUF tokenizer kind {kind!r}{what} is not supported: use a model of kind {_listed(KINDS)}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelError("this GGUF names a tokenizer but holds no tokens: use another file of the model")
    types = token_types(metadata)
    try:
        return _build(_BUILDERS[kind], metadata, tokens, types)
    except ModelError:
        raise
    except Exception as error:  # the library raises plain Exception
        message = " ".join(str(error).split())
        raise ModelError(f"this GGUF's tokenizer is broken ({message}): use another file of the model") from None


_Built = tuple[tokenizers.Tokenizer, bool]
"""(tokenizer, True if a file without `add_bos_token` requires BOS)"""
_Builder = Callable[[Mapping[str, Any], list[str], list[int]], _Built]


def _build(builder: _Builder, metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> HuggingFaceTokenizer:
    tokenizer, adds_bos = builder(metadata, tokens, types)
    _add_special_tokens(tokenizer, tokens, types, _spaceless(metadata))
    bos, eos = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    first = [bos] if metadata.get("tokenizer.ggml.add_bos_token", adds_bos) and bos is not None else []
    last = [eos] if metadata.get("tokenizer.ggml.add_eos_token", False) and eos is not None else []
    if first or last:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*(tokens[each] for each in first), "$A", *(tokens[each] for each in last)],
            special_tokens=[(tokens[each], each) for each in {*first, *last}],
        )
    return HuggingFaceTokenizer(tokenizer, bos, eos_token_ids(metadata))


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> _Built:
    name = metadata.get("tokenizer.ggml.pre", "default")
    rules = PRE_TOKENIZERS.get(name)
    if rules is None:
        raise ModelError(
            f"GGUF pre-tokenizer {name!r} is not supported: use a model with {_listed(sorted(PRE_TOKENIZERS))}"
        )
    merges = [_merge(line) for line in metadata["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=_ids(tokens), merges=merges, ignore_merges=rules.ignores_merges))
    tokenizer.pre_tokenizer = rules.build()
    tokenizer.decoder = decoders.ByteLevel()
    if rules.normalizes_to_nfc:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer, rules.adds_bos


def _merge(line: str) -> tuple[str, str]:
    left, _, right = line.partition(" ")
    return left, right


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> _Built:
    vocabulary = SentencePieces(
        pieces=tokens,
        scores=metadata["tokenizer.ggml.scores"],
        # llama.cpp looks for user-defined tokens in the text, before it is normalized: see `_add_special_tokens`.
        types=[NORMAL if kind == USER_DEFINED else kind for kind in types],
        unknown_id=metadata.get("tokenizer.ggml.unknown_token_id"),
        adds_space=metadata.get("tokenizer.ggml.add_space_prefix", True),
    )
    return build_tokenizer(vocabulary), True


_BUILDERS: dict[str, _Builder] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}

KINDS = tuple(_BUILDERS)
"""Kinds of vocabularies in GGUF files that are supported."""


def _add_special_tokens(
    tokenizer: tokenizers.Tokenizer, tokens: list[str], types: list[int], is_spaceless: Callable[[str], bool]
) -> None:
    """Add control tokens, and user-defined tokens, which are no control tokens but also matched as a whole.

    Spaces after a token that `is_spaceless` belong to the token.
    """
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False, rstrip=is_spaceless(token))
        for token, kind in zip(tokens, types, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])


def _spaceless(metadata: Mapping[str, Any]) -> Callable[[str], bool]:
    """Return a function that is true for tokens that absorb the spaces after them.

    GGUF has no field for this. As llama.cpp does, all such tokens of Phi-3 are known by the name of the model.
    """
    name = str(metadata.get("general.name", "")).lower()
    is_phi3 = "phi-3" in name or "phi3" in name
    return lambda token: is_phi3 and token not in ("<unk>", "<s>", "<|endoftext|>")


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


def _listed(names: Iterable[str]) -> str:
    return " or ".join(names)
