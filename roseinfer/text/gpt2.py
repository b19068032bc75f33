"""GPT-2's tokenizer, from the rank file that ships with the package."""

from collections.abc import Mapping
from pathlib import Path

from roseinfer.text.rank_file import END_OF_TEXT, TiktokenTokenizer, read_ranks
from roseinfer.text.words import GPT2_WORDS

GPT2_RANKS = Path(__file__).parent / "data" / "gpt2.tiktoken"


class Gpt2Tokenizer(TiktokenTokenizer):
    """GPT-2's byte-level BPE: 50,256 tokens and `<|endoftext|>`. GPT-2 begins texts with that token, but adds none."""

    def __init__(self, ranks: Mapping[bytes, int] | None = None) -> None:
        ranks = ranks if ranks is not None else read_ranks(GPT2_RANKS)
        super().__init__("gpt2", ranks, GPT2_WORDS, {END_OF_TEXT: len(ranks)}, eos=(END_OF_TEXT,))
        self.bos_token_id = len(ranks)
