"""Building tokenizers from the vocabulary in a GGUF file's metadata.

Two kinds of vocabulary are supported. `gpt2` is byte-level BPE: the file holds the merges, and the name of a
pre-tokenizer. `llama` is SentencePiece BPE: the file holds a score per token.
"""

from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from roseinfer.errors import ModelError
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.text.pretokenizer_patterns import LLAMA3_WORDS, QWEN2_WORDS
from roseinfer.text.token_bytes import SENTENCEPIECE_SPACE, byte_fallback_value

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
"""Token types of the GGUF specification."""

_EOS_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> HuggingFaceTokenizer | None:
    """Build the tokenizer that a GGUF file's metadata describes; return None if the metadata has no tokenizer.

    Raises ModelError, with the list of supported kinds, for any other kind of vocabulary.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if kind is None or kind == "none":
        return None
    if kind not in _BUILDERS:
        raise ModelError(f"GGUF tokenizer kind {kind!r} is not supported: use a model of kind {_listed(_BUILDERS)}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelError("this GGUF names a tokenizer but holds no tokens: use another file of the model")
    types = metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    try:
        return _build(_BUILDERS[kind], metadata, tokens, types)
    except ModelError:
        raise
    except Exception as error:  # the library raises plain Exception
        message = " ".join(str(error).split())
        raise ModelError(f"this GGUF's tokenizer is broken ({message}): use another file of the model") from None


def eos_token_ids(metadata: Mapping[str, Any]) -> frozenset[int]:
    """Return the tokens that end a completion, according to a GGUF file's metadata."""
    ids = (metadata.get(f"tokenizer.ggml.{key}") for key in _EOS_KEYS)
    return frozenset(token_id for token_id in ids if token_id is not None)


_Built = tuple[tokenizers.Tokenizer, bool]
"""(tokenizer, True if a file without `add_bos_token` requires BOS)"""
_Builder = Callable[[Mapping[str, Any], list[str], list[int]], _Built]


def _build(builder: _Builder, metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> HuggingFaceTokenizer:
    tokenizer, adds_bos = builder(metadata, tokens, types)
    _add_special_tokens(tokenizer, tokens, types)
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token", adds_bos) and bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[tokens[bos], "$A"], special_tokens=[(tokens[bos], bos)]
        )
    return HuggingFaceTokenizer(tokenizer, bos, eos_token_ids(metadata))


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> _Built:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if pre not in _PRE_TOKENIZERS:
        raise ModelError(f"GGUF pre-tokenizer {pre!r} is not supported: use a model with {_listed(_PRE_TOKENIZERS)}")
    family = _PRE_TOKENIZERS[pre]
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    # Llama 3 encodes a word that is itself a token as that token, even if no merges produce it.
    model = models.BPE(vocab=_ids(tokens), merges=merges, ignore_merges=family is _llama3)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = family()
    tokenizer.decoder = decoders.ByteLevel()
    if family is _qwen2:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer, family is _llama3


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    return _split(LLAMA3_WORDS)


def _qwen2() -> pre_tokenizers.PreTokenizer:
    return _split(QWEN2_WORDS)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "llama-bpe": _llama3,
    "llama-v3": _llama3,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
}


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> _Built:
    vocab = _ids(tokens)
    mergeable = {
        token: score
        for token, score, kind in zip(tokens, metadata["tokenizer.ggml.scores"], types, strict=True)
        if kind in (_NORMAL, _USER_DEFINED)
    }
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", types.index(_UNKNOWN) if _UNKNOWN in types else None)
    model = models.BPE(
        vocab=vocab,
        merges=_merges(mergeable, vocab),
        unk_token=tokens[unknown] if unknown is not None else None,
        fuse_unk=True,
        byte_fallback=any(byte_fallback_value(token) is not None for token in tokens),
    )
    tokenizer = tokenizers.Tokenizer(model)
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SENTENCEPIECE_SPACE, prepend_scheme="first" if prefix else "never", split=False
    )
    steps = [decoders.Replace(SENTENCEPIECE_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return tokenizer, True


def _merges(scores: Mapping[str, float], vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the merges equivalent to SentencePiece's scores.

    Any two pieces whose concatenation is a piece are a merge. Concatenations with higher scores are merged first.
    """
    ranked: list[tuple[float, int, int, str, str]] = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, vocab[piece], cut, left, right))
    ranked.sort()
    return [(left, right) for _, _, _, left, right in ranked]


_BUILDERS: dict[str, _Builder] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
}


def _add_special_tokens(tokenizer: tokenizers.Tokenizer, tokens: list[str], types: list[int]) -> None:
    kinds = list(zip(tokens, types, strict=True))
    control = [AddedToken(token, special=True, normalized=False) for token, kind in kinds if kind == _CONTROL]
    tokenizer.add_special_tokens(control)
    # A user-defined token is not a control token, but is also matched as a whole anywhere in a text.
    defined = [AddedToken(token, special=False, normalized=False) for token, kind in kinds if kind == _USER_DEFINED]
    tokenizer.add_tokens(defined)


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: token_id for token_id, token in enumerate(tokens)}


def _listed(names: Mapping[str, object]) -> str:
    return " or ".join(names)
