"""The GPT-2 tokenizer, built from the shipped rank file, equals byte-pair encoding by its definition."""

import hashlib
from itertools import pairwise

import regex
from hypothesis import given
from unicode_text import texts

from roseinfer.text.gpt2_tokenizer import GPT2_RANKS, Gpt2Tokenizer, read_ranks

# The regular expression of the GPT-2 release.
WORDS = regex.compile(r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""")


def slow_encode(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Encode by the definition of byte-pair encoding: repeatedly merge the pair with the lowest rank."""
    ids: list[int] = []
    for word in WORDS.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        while True:
            pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
            if not pairs or min(pairs) == len(ranks):
                break
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


RANKS = read_ranks(GPT2_RANKS)


def test_the_shipped_file_is_the_known_one() -> None:
    digest = hashlib.sha256(GPT2_RANKS.read_bytes()).hexdigest()
    assert digest == "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
    assert digest in GPT2_RANKS.with_name("LICENSE.gpt2").read_text()


def test_the_file_ranks_50256_tokens_in_order_and_all_single_bytes_among_them() -> None:
    assert list(RANKS.values()) == list(range(50256))
    assert {bytes([byte]) for byte in range(256)} <= set(RANKS)


def test_known_encodings(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.encode("Hello") == [15496]
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("") == []
    assert (gpt2.vocab_size, gpt2.bos_token_id, gpt2.eos_token_ids) == (50257, 50256, frozenset({50256}))


@given(text=texts)
def test_encoding_is_byte_pair_encoding_by_its_definition(text: str, gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.encode(text) == slow_encode(text, RANKS)


@given(text=texts)
def test_decoding_gives_the_text_back(text: str, gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.decode(gpt2.encode(text)) == text


def test_user_text_cannot_spell_the_end_of_text_token(gpt2: Gpt2Tokenizer) -> None:
    text = "a<|endoftext|>b"
    assert 50256 not in gpt2.encode(text)
    assert gpt2.decode(gpt2.encode(text)) == text
    assert gpt2.encode(text, allow_special=True) == [*gpt2.encode("a"), 50256, *gpt2.encode("b")]


def test_special_and_unknown_ids_decode_to_nothing(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.decode([15496, 50256, 50257, 10**9, -1, 995]) == "Hello world"
    assert gpt2.token_bytes(50256) == gpt2.token_bytes(60000) == gpt2.token_bytes(-1) == b""


def test_lone_surrogates_encode_as_replacement_characters(gpt2: Gpt2Tokenizer) -> None:
    assert gpt2.decode(gpt2.encode("a\udcffb")) == "a\ufffdb"
    assert gpt2.decode(gpt2.encode("a\udcffb", allow_special=True)) == "a\ufffdb"
