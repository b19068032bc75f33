"""Tokenizers run by the `tokenizers` library: a tokenizer.json, or a vocabulary built from a GGUF file."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from roseinfer.errors import ModelError
from roseinfer.model_files import MAX_TOKENIZER_BYTES, check_size, reading, shortened
from roseinfer.text.token_bytes import byte_level_bytes, join_bytes, sentencepiece_bytes
from roseinfer.text.tokenizer import without_surrogates


class HuggingFaceTokenizer:
    """A `tokenizers.Tokenizer` with roseinfer's `Tokenizer` interface.

    Byte-level vocabularies, and SentencePiece vocabularies with byte fallback, are decoded from their tokens' bytes, so
    that they can be streamed exactly. For SentencePiece this differs from the library's decoder in one case: the
    library also replaces valid UTF-8 bytes next to invalid ones.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        bos_token_id: int | None = None,
        eos_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()  # its setting for special tokens changes from call to call
        self.vocab_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self.bos_token_id = bos_token_id
        self.eos_token_ids = eos_token_ids
        added = tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._spelling, self.strips_leading_space = _spelling(tokenizer)
        # Added tokens are matched before a byte-level spelling applies, so their content is plain text. SentencePiece
        # vocabularies spell some with U+2581, such as Gemma's runs of spaces.
        plain = sentencepiece_bytes if self._spelling is sentencepiece_bytes else str.encode
        self._bytes = {token_id: b"" if token.special else plain(token.content) for token_id, token in added.items()}

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Implements `Tokenizer.encode`. The vocabulary's post-processor decides whether BOS is added."""
        text = without_surrogates(text)
        with self._lock:
            # With `encode_special_tokens`, the library encodes special tokens in the text as ordinary text.
            self._tokenizer.encode_special_tokens = not allow_special
            encoding = self._tokenizer.encode(text, add_special_tokens=not allow_special)
            ids: list[int] = encoding.ids
            if allow_special or self._special_ids.isdisjoint(ids):
                return ids
            return self._without_injected(encoding, text)

    def decode(self, ids: Sequence[int]) -> str:
        """Implements `Tokenizer.decode`."""
        if self._spelling is None:
            known = [token_id for token_id in ids if 0 <= token_id < self.vocab_size]
            text: str = self._tokenizer.decode(known, skip_special_tokens=True)
            return text
        pieces = [self.token_bytes(token_id) or b"" for token_id in ids]
        return join_bytes(pieces, strip_leading_space=self.strips_leading_space)

    def token_bytes(self, token_id: int) -> bytes | None:
        """Implements `Tokenizer.token_bytes`."""
        if self._spelling is None:
            return None
        known = self._bytes.get(token_id)
        if known is None:
            token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
            known = self._bytes[token_id] = b"" if token is None else self._spelling(token)
        return known

    def _without_injected(self, encoding: tokenizers.Encoding, text: str) -> list[int]:
        """Return the ids, with control tokens that the text spells out replaced by ordinary tokens.

        Some vocabularies look up a whole word before they split it, which finds a control token by its name. Such a
        word is encoded character by character.
        """
        ids: list[int] = []
        for token_id, added, (start, end) in zip(
            encoding.ids, encoding.special_tokens_mask, encoding.offsets, strict=True
        ):
            if added or token_id not in self._special_ids:
                ids.append(token_id)
                continue
            for char in text[start:end]:
                ids += self._tokenizer.encode(char, add_special_tokens=False).ids
        return ids


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """Read a tokenizer.json. Raises ModelError if it is too large, or if the library cannot read it."""
    remedy = "download it again, or update the tokenizers package"
    with reading(path, remedy):  # the library, which is written in Rust, can also panic
        check_size(path, MAX_TOKENIZER_BYTES)
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"cannot read {path}: {shortened(str(error))}; {remedy}") from None
    if tokenizer.get_vocab_size(with_added_tokens=False) == 0:
        raise ModelError(f"{path} has an empty vocabulary: {remedy}")
    # These settings are for training batches. For inference they would silently truncate or pad prompts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _spelling(tokenizer: tokenizers.Tokenizer) -> tuple[Callable[[str], bytes] | None, bool]:
    """Return a function from a token's spelling to its bytes, and whether decoding strips one leading space.

    Both follow from the tokenizer's decoder. The function is None for decoders that do not work on bytes.
    """
    steps = _decoder_steps(tokenizer)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return byte_level_bytes, False
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and kinds[3:] in ([], ["Strip"]):
        replace, strip = steps[0], steps[3] if len(steps) > 3 else None
        spaces = replace["pattern"] == {"String": "\u2581"} and replace["content"] == " "
        one_space = strip is None or (strip["content"] == " " and (strip["start"], strip["stop"]) == (1, 0))
        if spaces and one_space:
            return sentencepiece_bytes, strip is not None
    return None, False


def _decoder_steps(tokenizer: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    if tokenizer.decoder is None:
        return []
    state: dict[str, Any] = json.loads(tokenizer.decoder.__getstate__())
    return state["decoders"] if state["type"] == "Sequence" else [state]
