"""What a tokenizer is to the rest of roseinfer."""

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to token ids and back. Every vocabulary format has its own implementation."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included. A model may have more rows than that."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that starts a text, whether or not `encode` adds it."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The tokens that end a completion."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether `decode` drops one space at the very start, as SentencePiece writes one before the first word."""

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Token ids of a text.

        By default the text is a user's: control tokens spelled in it stay plain text, and BOS comes first where the
        vocabulary asks for it. With `allow_special` it is a rendered chat template, which spells its own control
        tokens, BOS included: they are recognised, and none is added.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids. Special tokens and ids beyond the vocabulary are skipped; invalid UTF-8 reads U+FFFD."""

    def token_bytes(self, token_id: int) -> bytes | None:
        """The bytes a token stands for, b"" for a special or unknown one; None where tokens have no bytes of their own.

        Where there are bytes, `decode` is their concatenation, read as UTF-8.
        """


def without_surrogates(text: str) -> str:
    """`text` with lone surrogates, which no tokenizer takes, turned into U+FFFD.

    Python makes them of undecodable bytes on the command line and of broken JSON escapes.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
