"""Streaming detokenizers: token ids in, one at a time; text out as soon as it is final.

The pieces of a stream, `finish()` included, concatenate to exactly `tokenizer.decode(all ids)`, and no U+FFFD is
streamed that a later token would have completed to a character.
"""

import codecs
from collections.abc import Callable
from functools import partial
from typing import Protocol

from roseinfer.text.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
IDS_PREFIX = "ids:"

# A UTF-8 character has at most four bytes, so a cut one shows at most three replacement characters.
_MAX_CUT = 3
# Tokens in the window of PrefixDiffDetokenizer past which it looks for a place to cut even in the midst of bytes.
_LONG_WINDOW = 32


class Detokenizer(Protocol):
    """The text of one completion, piece by piece."""

    def add(self, token_id: int) -> str:
        """The text that became final with this token; often that of the token, sometimes empty."""

    def finish(self) -> str:
        """The text still held back: U+FFFD for a character that never became whole. Call it once, at the end."""


def detokenizers(tokenizer: Tokenizer | None) -> Callable[[], Detokenizer]:
    """What makes a fresh detokenizer for each completion: by bytes where the vocabulary has them, ids where there is
    none."""
    if tokenizer is None:
        return IdsDetokenizer
    if tokenizer.token_bytes(0) is not None:
        return partial(ByteLevelDetokenizer, tokenizer, WholeTexts(tokenizer))
    return partial(PrefixDiffDetokenizer, tokenizer)


class WholeTexts(dict[int, str | None]):
    """The text of each token, None for one whose bytes are not whole characters; worked out when first asked for."""

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
    """Decodes tokens' bytes as UTF-8, incrementally. A token costs time in its own length only.

    Most tokens are whole characters behind whole characters, and their text is looked up.
    """

    def __init__(self, tokenizer: Tokenizer, whole: WholeTexts | None = None) -> None:
        """`whole` can be shared by all detokenizers of the tokenizer."""
        self._tokenizer = tokenizer
        self._whole = WholeTexts(tokenizer) if whole is None else whole
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._holds_bytes = False
        self._at_start = tokenizer.strips_leading_space

    def add(self, token_id: int) -> str:
        """See `Detokenizer.add`."""
        text = None if self._holds_bytes else self._whole[token_id]
        if text is None:
            text = self._decoder.decode(self._tokenizer.token_bytes(token_id) or b"")
            self._holds_bytes = bool(self._decoder.getstate()[0])
        return self._piece(text) if self._at_start else text

    def finish(self) -> str:
        """See `Detokenizer.finish`."""
        return self._piece(self._decoder.decode(b"", final=True))

    def _piece(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


class IdsDetokenizer:
    """Without a tokenizer a completion reads `ids:5,6,7`, which is also how a prompt of ids is written."""

    def __init__(self) -> None:
        self._before = IDS_PREFIX

    def add(self, token_id: int) -> str:
        """See `Detokenizer.add`."""
        before, self._before = self._before, ","
        return f"{before}{token_id}"

    def finish(self) -> str:
        """See `Detokenizer.finish`."""
        return ""


class PrefixDiffDetokenizer:
    """Streams the difference between decoding with and without the newest token.

    For any tokenizer, through `decode` alone. Only a window of the newest tokens is decoded: some that were streamed
    already, which give the new ones their context (such as the space before a word), and those not yet streamed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.decode
        self._window: list[int] = []
        self._context = 0  # tokens at the window's start that are context
        self._streamed = 0  # characters of the window's text that were streamed

    def add(self, token_id: int) -> str:
        """See `Detokenizer.add`."""
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
        """See `Detokenizer.finish`."""
        return self._decode(self._window)[self._streamed :]

    def _shrink(self, text: str) -> None:
        """Keep only the newest tokens, as context.

        Tokens that make no text of their own (special ones, a lone SentencePiece space) are no context: the decoder
        would treat what follows them as the start of a text.
        """
        newest = self._window[self._context :]
        newest_text = self._decode(newest)
        if newest_text:
            self._window, self._context, self._streamed = newest, len(newest), len(newest_text)
        elif len(newest) >= _LONG_WINDOW and self._decode(self._window[: self._context]) == text:
            del self._window[self._context :]

    def _cut(self, text: str) -> None:
        """Bound a window of invalid bytes that never comes to rest: cut it where both parts decode to the whole."""
        for keep in range(_LONG_WINDOW // 2, 0, -1):
            head, tail = self._decode(self._window[:-keep]), self._decode(self._window[-keep:])
            if tail and head + tail == text and len(head) <= self._streamed:
                self._window, self._context, self._streamed = self._window[-keep:], 0, self._streamed - len(head)
                return
