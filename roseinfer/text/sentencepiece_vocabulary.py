"""Building tokenizers from SentencePiece vocabularies: pieces with scores, merged (BPE) or chosen by score (Unigram).

The algorithms are those of https://github.com/google/sentencepiece (src/bpe_model.cc, src/unigram_model.cc).
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from roseinfer.text.gguf_token_types import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from roseinfer.text.token_bytes import SENTENCEPIECE_SPACE, byte_fallback_value


class SentencePieces(msgspec.Struct, frozen=True, kw_only=True):
    """A SentencePiece vocabulary with the rules that come with it."""

    pieces: list[str]
    scores: list[float]
    types: list[int]
    """Kind of each piece, with the numbers of `gguf_token_types`, which are SentencePiece's own."""
    algorithm: Literal["bpe", "unigram"] = "bpe"
    unknown_id: int | None = None
    """Token of characters that no piece has. None: the first piece of that type."""
    adds_space: bool = True
    """Put a space before a text."""
    squeezes_spaces: bool = False
    """Drop spaces at both ends of a text, and all but one of consecutive spaces."""
    charsmap: bytes = b""
    """Compiled rules of Unicode normalization; empty for none."""


def build_tokenizer(vocabulary: SentencePieces) -> tokenizers.Tokenizer:
    """Return a tokenizer of the `tokenizers` library that gives SentencePiece's ids, without BOS and EOS.

    A text may spell out pieces that SentencePiece never chooses, of control tokens and bytes. They are split in two, so
    that the library cannot choose them either. One difference is left: without byte tokens, unknown characters at the
    border of such a piece are several unknown tokens, not one. The library raises plain Exception for a broken
    vocabulary.
    """
    kinds = list(zip(vocabulary.pieces, vocabulary.types, strict=True))
    defined = [piece for piece, kind in kinds if kind == USER_DEFINED]
    tokenizer = tokenizers.Tokenizer(_model(vocabulary, has_defined=bool(defined)))
    tokenizer.normalizer = _normalizer(vocabulary)
    # User-defined pieces are found in the normalized text, and stand alone.
    patterns = [_escaped(piece) for piece in sorted(defined, key=len, reverse=True)]
    reserved = [piece for piece, kind in kinds if kind not in (NORMAL, USER_DEFINED)]
    if vocabulary.algorithm == "unigram":
        patterns += [f"{_escaped(piece[:1])}(?={_escaped(piece[1:])})" for piece in reserved]
    elif defined:
        patterns.append(_first_character_of_words(reserved, "|".join(patterns)))
    if patterns:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(patterns)), behavior="isolated")
    steps: list[Any] = [decoders.Replace(SENTENCEPIECE_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if vocabulary.adds_space else []))
    tokenizer.add_special_tokens(
        [AddedToken(piece, special=True, normalized=False) for piece, kind in kinds if kind == CONTROL]
    )
    return tokenizer


def _model(vocabulary: SentencePieces, *, has_defined: bool) -> models.Model:
    pieces, types = vocabulary.pieces, vocabulary.types
    unknown = vocabulary.unknown_id
    if unknown is None:
        unknown = types.index(UNKNOWN) if UNKNOWN in types else None
    byte_fallback = any(byte_fallback_value(piece) is not None for piece in pieces)
    if vocabulary.algorithm == "unigram":
        kinds = list(zip(pieces, vocabulary.scores, types, strict=True))
        # Characters without a piece score 10 less than the worst piece, so no other piece may score less.
        worst = min((score for _, score, kind in kinds if kind == NORMAL), default=0.0)
        scored = [
            (piece, 0.0 if kind == USER_DEFINED else score if kind == NORMAL else worst) for piece, score, kind in kinds
        ]
        return models.Unigram(scored, unk_id=unknown, byte_fallback=byte_fallback)
    vocab = {piece: token_id for token_id, piece in enumerate(pieces)}
    mergeable = {
        piece: score
        for piece, score, kind in zip(pieces, vocabulary.scores, types, strict=True)
        if kind in (NORMAL, USER_DEFINED)
    }
    return models.BPE(
        vocab=vocab,
        merges=_merges(mergeable, vocab),
        unk_token=pieces[unknown] if unknown is not None else None,
        fuse_unk=True,
        byte_fallback=byte_fallback,
        ignore_merges=has_defined,  # a user-defined piece that stands alone is one token, whatever merges there are
    )


def _normalizer(vocabulary: SentencePieces) -> normalizers.Normalizer:
    """Return the normalizer. It runs for each text between control tokens, so each of them gets the space."""
    steps: list[normalizers.Normalizer] = []
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    if vocabulary.squeezes_spaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if vocabulary.adds_space:
        steps.append(normalizers.Prepend(SENTENCEPIECE_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SENTENCEPIECE_SPACE)])


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


def _first_character_of_words(reserved: list[str], defined: str) -> str:
    """Return a regular expression of the first character of a reserved piece that stands alone between defined ones."""
    words = "|".join(map(_escaped, reserved))
    return rf"(?:\A|(?<={defined}))(?=(?:{words})(?:\z|{defined}))(?m:.)"


def _escaped(text: str) -> str:
    """Return a regular expression that matches only this text."""
    return "".join(rf"\x{{{ord(char):x}}}" for char in text)
