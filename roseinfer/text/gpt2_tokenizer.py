"""GPT-2's tokenizer, built from the rank file that ships with the package."""

from pathlib import Path

from roseinfer.text.rank_file import VOCABULARIES, TiktokenTokenizer, read_ranks

GPT2_RANKS = Path(__file__).parent / "data" / "gpt2.tiktoken"


class Gpt2Tokenizer(TiktokenTokenizer):
    """GPT-2's byte-level BPE: 50,256 tokens and `<|endoftext|>`, which is both BOS and EOS and is never added."""

    def __init__(self) -> None:
        ranks = read_ranks(GPT2_RANKS)
        super().__init__("gpt2", ranks, VOCABULARIES[len(ranks)])
