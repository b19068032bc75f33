"""Streaming detokenizers: they accept token ids one at a time, and return text as soon as it is final.

The pieces of a stream, `finish()` included, concatenate to exactly `tokenizer.decode(all ids)`, or, if the stream
continues a text, to what `tokenizer.decode(ids before + all ids)` adds to `tokenizer.decode(ids before)`. A U+FFFD is
never streamed where a later token would have completed the character.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from roseinfer.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
IDS_PREFIX = "ids:"

_MAX_CUT = 3
"""Maximum replacement characters that an incomplete UTF-8 character decodes to: a character has up to four bytes."""

_LONG_WINDOW = 32
"""Tokens from which `PrefixDiffDetokenizer` shortens its window even inside a run of invalid bytes."""


class Detokenizer(Protocol):
    """Streams the text of one completion, piece by piece."""

    def add(self, token_id: int) -> str:
        """Return the text that this token makes final: often the token's own text, sometimes an empty string."""

    def finish(self) -> str:
        """Return the text still held back: U+FFFD for an incomplete character. Call this once, at the end."""


class NewDetokenizer(Protocol):
    """Creates the detokenizer of one completion."""

    def __call__(self, before: Sequence[int] = (), /) -> Detokenizer:
        """Return a detokenizer of tokens that continue the text of `before`, or that are a text of their own."""


def detokenizers(tokenizer: Tokenizer | None) -> NewDetokenizer:
    """Return a factory of detokenizers, to be called once per completion.

    The detokenizer works on bytes if the vocabulary defines its tokens' bytes, and through `decode` otherwise. Without
    a tokenizer it prints token ids.
    """
    if tokenizer is None:
        return lambda _before=(): IdsDetokenizer()
    if tokenizer.token_bytes(0) is not None:
        whole = WholeTexts(tokenizer)
        return lambda before=(): ByteLevelDetokenizer(tokenizer, before, whole)
    return lambda before=(): PrefixDiffDetokenizer(tokenizer, before)


class WholeTexts(dict[int, str | None]):
    """Cache of token id -> text, or None for a token whose bytes are not whole characters. Filled on first use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str | None:
        try:
            text = (self._tokenizer.token_bytes(token_id) or b"").decode()
        except UnicodeDecodeError:
            text = None
        self[token_id] = text
        return text


class ByteLevelDetokenizer:
    """Decodes tokens' bytes as UTF-8 incrementally. The cost of a token depends on its own length only.

    Most tokens consist of whole characters and follow whole characters: their text is looked up in a cache.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = (), whole: WholeTexts | None = None) -> None:
        """Create a detokenizer of tokens that follow `before`. All detokenizers of one tokenizer may share `whole`."""
        self._tokenizer = tokenizer
        self._whole = WholeTexts(tokenizer) if whole is None else whole
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._holds_bytes = False
        self._at_start = tokenizer.strips_leading_space and not any(map(tokenizer.token_bytes, before))

    def add(self, token_id: int) -> str:
        """Implements `Detokenizer.add`."""
        text = None if self._holds_bytes else self._whole[token_id]
        if text is None:
            text = self._decoder.decode(self._tokenizer.token_bytes(token_id) or b"")
            self._holds_bytes = bool(self._decoder.getstate()[0])
        return self._piece(text) if self._at_start else text

    def finish(self) -> str:
        """Implements `Detokenizer.finish`."""
        return self._piece(self._decoder.decode(b"", final=True))

    def _piece(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


class IdsDetokenizer:
    """Prints token ids in place of text, as in `ids:5,6,7`, the notation in which prompts of ids are written."""

    def __init__(self) -> None:
        self._before = IDS_PREFIX

    def add(self, token_id: int) -> str:
        """Implements `Detokenizer.add`."""
        before, self._before = self._before, ","
        return f"{before}{token_id}"

    def finish(self) -> str:
        """Implements `Detokenizer.finish`."""
        return ""


class PrefixDiffDetokenizer:
    """Streams the difference between the text with and without the newest token.

    Works for any tokenizer, because it uses `decode` alone. Only a window of the newest tokens is decoded. It begins
    with tokens that were streamed already, as context for the new tokens: the context decides, for instance, whether a
    word begins with a space.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        """Create a detokenizer of tokens that follow `before`."""
        self._decode = tokenizer.decode
        self._window = list(before[-_LONG_WINDOW:])
        text = self._decode(self._window)
        if not text and len(self._window) < len(before):
            self._window = list(before)
            text = self._decode(self._window)
        self._context = len(self._window)  # number of context tokens at the window's start
        self._streamed = len(text)  # characters of the window's text that were streamed

    def add(self, token_id: int) -> str:
        """Implements `Detokenizer.add`."""
        self._window.append(token_id)
        text = self._decode(self._window)
        cut = len(text) - len(text.rstrip(REPLACEMENT))
        final = len(text) - min(cut, _MAX_CUT)
        piece = text[self._streamed : final]
        self._streamed = max(self._streamed, final)
        if self._streamed == len(text):
            self._shrink(text)
        elif len(self._window) >= _LONG_WINDOW:
            self._cut(text)
        return piece

    def finish(self) -> str:
        """Implements `Detokenizer.finish`."""
        return self._decode(self._window)[self._streamed :]

    def _shrink(self, text: str) -> None:
        """Shorten the window to its newest tokens, which become the context.

        Tokens without text of their own (special tokens, a lone SentencePiece space) cannot be the context: the decoder
        would treat the token after them as the start of a text.
        """
        newest = self._window[self._context :]
        newest_text = self._decode(newest)
        if newest_text:
            self._window, self._context, self._streamed = newest, len(newest), len(newest_text)
        elif len(newest) >= _LONG_WINDOW and self._decode(self._window[: self._context]) == text:
            del self._window[self._context :]

    def _cut(self, text: str) -> None:
        """Bound a window of invalid bytes that never become final.

        The window is cut at a token where the texts of both parts concatenate to the text of the whole.
        """
        for keep in range(_LONG_WINDOW // 2, 0, -1):
            head, tail = self._decode(self._window[:-keep]), self._decode(self._window[-keep:])
            if tail and head + tail == text and len(head) <= self._streamed:
                self._window, self._context, self._streamed = self._window[-keep:], 0, self._streamed - len(head)
                return
