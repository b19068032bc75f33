"""GPT-2's tokenizer, over tiktoken, from the rank file that ships with the package."""

import base64
from collections.abc import Sequence
from pathlib import Path

import tiktoken

from roseinfer.text.token_bytes import join_bytes

GPT2_RANKS = Path(__file__).parent / "data" / "gpt2.tiktoken"
END_OF_TEXT = "<|endoftext|>"

# The pattern of GPT-2's encoder: contractions, then words, numbers and punctuation with the space before them.
_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class Gpt2Tokenizer:
    """GPT-2's byte-level BPE: 50,256 tokens and `<|endoftext|>`."""

    strips_leading_space = False

    def __init__(self) -> None:
        ranks = read_ranks(GPT2_RANKS)
        end_of_text = len(ranks)
        self._encoding = tiktoken.Encoding(
            name="gpt2",
            pat_str=_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: end_of_text},
        )
        self._bytes = [*ranks, b""]  # by id: the file lists the ranks in order
        self.vocab_size = len(self._bytes)
        self.bos_token_id: int | None = end_of_text
        self.eos_token_ids = frozenset({end_of_text})

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """See `Tokenizer.encode`. GPT-2 adds no BOS."""
        if allow_special:
            return self._encoding.encode(text, allowed_special="all")
        return self._encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`."""
        return join_bytes([self.token_bytes(token_id) for token_id in ids], strip_leading_space=False)

    def token_bytes(self, token_id: int) -> bytes:
        """See `Tokenizer.token_bytes`."""
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""


def read_ranks(path: Path) -> dict[bytes, int]:
    """A tiktoken rank file: one token a line, in base64, and its rank, in order."""
    lines = path.read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
