"""Tokenizers from a tiktoken rank file: each line is a token in base64 and its rank.

A rank file defines neither how a text is split into words nor the control tokens. Both are defined here for the
published files, which are recognized by their number of ranks and their checksum. Any other file is refused.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import tiktoken

from roseinfer.errors import ModelError
from roseinfer.text.pretokenizer_patterns import CL100K_WORDS, GPT2_WORDS, GPT4O_WORDS, LLAMA3_WORDS, QWEN2_WORDS
from roseinfer.text.token_bytes import join_bytes

END_OF_TEXT = "<|endoftext|>"


class TiktokenTokenizer:
    """A byte-level BPE tokenizer, run by tiktoken. Control tokens follow the ranked tokens."""

    strips_leading_space = False

    def __init__(self, name: str, ranks: Mapping[bytes, int], vocabulary: "RankedVocabulary") -> None:
        control, bos = vocabulary.control, vocabulary.bos
        self._encoding = tiktoken.Encoding(
            name=name, pat_str=vocabulary.words, mergeable_ranks=dict(ranks), special_tokens=dict(control)
        )
        self._bytes = {rank: token for token, rank in ranks.items()}
        self.vocab_size = vocabulary.vocab_size
        self.bos_token_id = control[bos] if bos is not None else None
        self._first = [control[bos]] if bos is not None and vocabulary.adds_bos else []
        self.eos_token_ids = frozenset(control[token] for token in vocabulary.eos)

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


class RankedVocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that a published rank file lacks: how its vocabulary splits a text, and its control tokens."""

    name: str
    sha256: str
    """Checksum of the file, with lines in the order of their ranks."""
    words: str
    """Regular expression of words."""
    control: dict[str, int]
    """Control tokens that are in use, with their ids."""
    vocab_size: int
    """Number of tokens, reserved control tokens included."""
    bos: str | None = None
    adds_bos: bool = False
    eos: tuple[str, ...] = ()


def _llama(first: int, **places: int) -> dict[str, int]:
    return {f"<|{name}|>": first + place for name, place in places.items()}


VOCABULARIES = {
    50256: RankedVocabulary(
        name="GPT-2",
        sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        words=GPT2_WORDS,
        control={END_OF_TEXT: 50256},
        vocab_size=50257,
        bos=END_OF_TEXT,
        eos=(END_OF_TEXT,),
    ),
    50280: RankedVocabulary(
        name="p50k_base",
        sha256="94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
        words=GPT2_WORDS,
        control={END_OF_TEXT: 50256},
        vocab_size=50281,
        bos=END_OF_TEXT,
        eos=(END_OF_TEXT,),
    ),
    100256: RankedVocabulary(
        name="cl100k_base",
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        words=CL100K_WORDS,
        control={
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        vocab_size=100277,
        eos=(END_OF_TEXT,),
    ),
    128000: RankedVocabulary(
        name="Llama 3",
        sha256="82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55",
        words=LLAMA3_WORDS,
        control=_llama(
            128000,
            begin_of_text=0,
            end_of_text=1,
            start_header_id=6,
            end_header_id=7,
            eom_id=8,
            eot_id=9,
            python_tag=10,
        ),
        vocab_size=128256,
        bos="<|begin_of_text|>",
        adds_bos=True,
        eos=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    151643: RankedVocabulary(
        name="Qwen",
        sha256="b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186",
        words=QWEN2_WORDS,
        control={END_OF_TEXT: 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
        vocab_size=151851,
        eos=(END_OF_TEXT, "<|im_end|>"),
    ),
    199998: RankedVocabulary(
        name="o200k_base",
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        words=GPT4O_WORDS,
        control={END_OF_TEXT: 199999, "<|endofprompt|>": 200018},
        vocab_size=200019,
        eos=(END_OF_TEXT,),
    ),
    200000: RankedVocabulary(
        name="Llama 4",
        sha256="d0bdbaf59b0762c8c807617e2d8ea51420eb1b1de266df2495be755c8e0ed6ed",
        words=GPT4O_WORDS,
        control=_llama(
            200000,
            begin_of_text=0,
            end_of_text=1,
            fim_prefix=2,
            fim_middle=3,
            fim_suffix=4,
            header_start=5,
            header_end=6,
            eom=7,
            eot=8,
            step=9,
            python_start=16,
            python_end=17,
            finetune_right_pad=18,
        ),
        vocab_size=202048,
        bos="<|begin_of_text|>",
        adds_bos=True,
        eos=("<|end_of_text|>", "<|eom|>", "<|eot|>"),
    ),
}
"""The published rank files that are known, by their number of ranks.

Sources: tiktoken's openai_public.py, llama_models/llama3 and llama4/tokenizer.py of Meta's llama-models, and
resources/qwen.tiktoken with tokenizers/qwen_tokenizer.py of Alibaba's dashscope.
"""


def tokenizer_from_ranks(path: Path) -> TiktokenTokenizer:
    """Build the tokenizer of a tiktoken rank file. Raises ModelError for any file that is not a known one."""
    ranks = read_ranks(path)
    known = VOCABULARIES.get(len(ranks))
    if known is None:
        sizes = ", ".join(f"{each.name} ({count:,})" for count, each in VOCABULARIES.items())
        raise ModelError(
            f"{path} has {len(ranks):,} ranks, and a rank file does not say how its vocabulary splits words: "
            f"give a tokenizer.json, or a known file: {sizes}"
        )
    if rank_checksum(ranks) != known.sha256:
        raise ModelError(
            f"{path} has as many ranks as {known.name}, {len(ranks):,}, but other tokens: "
            "give a tokenizer.json, or download the file again"
        )
    return TiktokenTokenizer(path.name, ranks, known)


def rank_checksum(ranks: Mapping[bytes, int]) -> str:
    """Return the SHA-256 of the rank file with these ranks, as it is published: one line per rank, in order."""
    ordered = sorted(ranks.items(), key=lambda item: item[1])
    lines = b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ordered)
    return hashlib.sha256(lines).hexdigest()


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
