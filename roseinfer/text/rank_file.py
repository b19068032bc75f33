"""Tokenizers from a tiktoken rank file: each line is a token in base64 and its rank.

A rank file defines neither how a text is split into words nor the control tokens. For the vocabularies of GPT-2,
Llama 3 and Qwen2, recognized by their number of ranks, both are defined here. Any other vocabulary is split like
GPT-2's, and has no control tokens.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path

import tiktoken

from roseinfer.errors import ModelError
from roseinfer.text.pretokenizer_patterns import GPT2_WORDS, LLAMA3_WORDS, QWEN2_WORDS
from roseinfer.text.token_bytes import join_bytes

END_OF_TEXT = "<|endoftext|>"


class TiktokenTokenizer:
    """A byte-level BPE tokenizer, run by tiktoken. Control tokens follow the ranked tokens."""

    strips_leading_space = False

    def __init__(
        self,
        name: str,
        ranks: Mapping[bytes, int],
        words: str,
        control: Mapping[str, int],
        *,
        bos: str | None = None,
        adds_bos: bool = False,
        eos: Sequence[str] = (),
    ) -> None:
        self._encoding = tiktoken.Encoding(
            name=name, pat_str=words, mergeable_ranks=dict(ranks), special_tokens=dict(control)
        )
        self._bytes = {rank: token for token, rank in ranks.items()}
        self.vocab_size: int = max([*self._bytes, *control.values()]) + 1
        self.bos_token_id = control[bos] if bos is not None else None
        self._first = [control[bos]] if bos is not None and adds_bos else []
        self.eos_token_ids = frozenset(control[token] for token in eos)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Implements `Tokenizer.encode`."""
        if allow_special:
            return self._encoding.encode(text, allowed_special="all")
        return self._first + self._encoding.encode_ordinary(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Implements `Tokenizer.decode`."""
        return join_bytes([self.token_bytes(token_id) for token_id in ids], strip_leading_space=False)

    def token_bytes(self, token_id: int) -> bytes:
        """Implements `Tokenizer.token_bytes`."""
        return self._bytes.get(token_id, b"")


def tokenizer_from_ranks(path: Path) -> TiktokenTokenizer:
    """Build the tokenizer of a tiktoken rank file. Raises ModelError for any other file."""
    ranks = read_ranks(path)
    count = len(ranks)
    if count == 50256:
        control = {END_OF_TEXT: count}
        return TiktokenTokenizer(path.name, ranks, GPT2_WORDS, control, bos=END_OF_TEXT, eos=(END_OF_TEXT,))
    if count == 128000:
        return _llama3(path.name, ranks)
    if count == 151643:
        control = {END_OF_TEXT: count, "<|im_start|>": count + 1, "<|im_end|>": count + 2}
        return TiktokenTokenizer(path.name, ranks, QWEN2_WORDS, control, eos=(END_OF_TEXT, "<|im_end|>"))
    return TiktokenTokenizer(path.name, ranks, GPT2_WORDS, {})


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read the ranks of a rank file: token bytes -> rank. Raises ModelError for any other file."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    try:
        ranks = {
            base64.b64decode(token, validate=True): int(rank)
            for token, rank in (line.split() for line in lines if line.strip())
        }
    except (ValueError, binascii.Error):
        raise ModelError(
            f"{path} is not a tiktoken file: give a file whose lines are a base64 token and its rank"
        ) from None
    # Merging starts from single bytes, so all 256 of them must be tokens.
    if not {bytes([byte]) for byte in range(256)} <= ranks.keys() or len(set(ranks.values())) < len(ranks):
        raise ModelError(f"{path} lacks single-byte tokens or has a rank twice: download the tiktoken file again")
    return ranks


def _llama3(name: str, ranks: Mapping[bytes, int]) -> TiktokenTokenizer:
    """Return Llama 3's tokenizer. It has 256 control tokens, most of them reserved; only those in use are named."""
    first = len(ranks)
    places = {
        "<|begin_of_text|>": 0,
        "<|end_of_text|>": 1,
        "<|start_header_id|>": 6,
        "<|end_header_id|>": 7,
        "<|eom_id|>": 8,
        "<|eot_id|>": 9,
    }
    control = {token: first + place for token, place in places.items()}
    tokenizer = TiktokenTokenizer(
        name,
        ranks,
        LLAMA3_WORDS,
        control,
        bos="<|begin_of_text|>",
        adds_bos=True,
        eos=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    )
    tokenizer.vocab_size = first + 256
    return tokenizer
