"""The interface of tokenizers."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Converts text to token ids and back. Each vocabulary format has an implementation."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special tokens included. A model's embedding may have more rows."""

    @property
    def bos_token_id(self) -> int | None:
        """Token that begins a text, whether or not `encode` adds it."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a completion."""

    @property
    def strips_leading_space(self) -> bool:
        """True if `decode` drops one space at the start of a text, which SentencePiece adds before the first word."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Return the token ids of a text.

        By default the text is a user's: control tokens spelled in the text remain plain text, and BOS is added if the
        vocabulary requires it. With `allow_special` the text is a rendered chat template: control tokens in the text,
        BOS included, are recognized, and none is added.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens and unknown ids. Invalid UTF-8 becomes U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes of a token, or b"" for a special or unknown token.

        `decode` is the concatenation of these bytes, read as UTF-8. Return None for every token if the vocabulary does
        not work on bytes.
        """


def encode_parsed(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text in which control tokens are recognized, with BOS and EOS added as to any text.

    A BOS or EOS that the text has already is not added again.
    """
    ids = tokenizer.encode(text, allow_special=True)
    first, last = _added(tokenizer)
    first = [] if ids[: len(first)] == first else first
    last = [] if last and ids[-len(last) :] == last else last
    return [*first, *ids, *last]


def _added(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the tokens that `encode` adds before and after a text."""
    plain, with_added = tokenizer.encode("a", allow_special=True), tokenizer.encode("a")
    at = next(n for n in range(len(with_added)) if with_added[n : n + len(plain)] == plain)
    return with_added[:at], with_added[at + len(plain) :]


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, by U+FFFD.

    In Python they result from undecodable bytes on the command line and from broken JSON escapes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
