"""Tokenizers built from GGUF metadata produce the ids that the models were trained on."""

import unicodedata
from itertools import chain, pairwise
from typing import Any

import pytest
import regex
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from unicode_text import texts

from roseinfer.errors import ModelError
from roseinfer.text.gguf_token_types import eos_token_ids
from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf
from roseinfer.text.gpt2_tokenizer import GPT2_RANKS, read_ranks
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.text.token_bytes import byte_alphabet

DIGIT = regex.compile(r"(\p{N})")


@pytest.fixture(scope="module")
def lacking(transformers_demo: Any) -> set[int]:
    """Bytes for which the demo model has no token: control characters, and bytes of rare scripts."""
    vocabulary = transformers_demo.get_vocab()
    return {byte for char, byte in byte_alphabet().items() if char not in vocabulary}


class TestDemoModel:
    def test_it_knows_nearly_all_bytes(self, lacking: set[int]) -> None:
        assert len(lacking) == 21
        assert not any(chr(byte).isprintable() for byte in lacking if byte < 128)

    @given(text=texts.map(lambda text: DIGIT.sub("", text)))
    def test_ids_are_those_of_transformers(
        self, text: str, demo_tokenizer: HuggingFaceTokenizer, transformers_demo: Any
    ) -> None:
        assert demo_tokenizer.encode(text) == transformers_demo.encode(text, add_special_tokens=False)

    @given(text=texts)
    def test_digits_stand_alone_as_in_the_models_own_tokenizer(
        self, text: str, demo_tokenizer: HuggingFaceTokenizer, transformers_demo: Any
    ) -> None:
        # transformers uses GPT-2's pre-tokenizer for this GGUF. SmolLM2's own one splits off every digit first.
        pieces = (transformers_demo.encode(piece, add_special_tokens=False) for piece in DIGIT.split(text))
        assert demo_tokenizer.encode(text) == list(chain.from_iterable(pieces))

    @given(text=texts)
    def test_decoding_gives_the_text_back_but_for_bytes_that_the_vocabulary_lacks(
        self, text: str, demo_tokenizer: HuggingFaceTokenizer, lacking: set[int]
    ) -> None:
        decoded = demo_tokenizer.decode(demo_tokenizer.encode(text))
        assert decoded == bytes(byte for byte in text.encode() if byte not in lacking).decode("utf-8", "replace")

    @given(ids=st.lists(st.integers(0, 49151), max_size=30))
    def test_any_ids_decode_as_transformers_decodes_them(
        self, ids: list[int], demo_tokenizer: HuggingFaceTokenizer, transformers_demo: Any
    ) -> None:
        theirs = transformers_demo.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert demo_tokenizer.decode(ids) == theirs

    def test_control_tokens_are_read_in_a_rendered_chat_but_not_in_user_text(
        self, demo_tokenizer: HuggingFaceTokenizer, transformers_demo: Any
    ) -> None:
        text = "<|im_start|>user\nHi<|im_end|>\n"
        chat = demo_tokenizer.encode(text, allow_special=True)
        assert chat == transformers_demo.encode(text, add_special_tokens=False)
        assert chat.count(1) == chat.count(2) == 1
        assert demo_tokenizer.decode(chat) == "user\nHi\n"
        plain = demo_tokenizer.encode(text)
        assert not {1, 2} & set(plain)
        assert demo_tokenizer.decode(plain) == text

    def test_its_special_tokens(self, demo_tokenizer: HuggingFaceTokenizer) -> None:
        assert demo_tokenizer.vocab_size == 49152
        assert (demo_tokenizer.bos_token_id, demo_tokenizer.eos_token_ids) == (1, frozenset({0, 2, 4}))
        assert demo_tokenizer.encode("Hi")[0] != 1


# GPT-2's first 2000 ranks include words and parts of characters, and are fast to build.
RANKS = dict(list(read_ranks(GPT2_RANKS).items())[:2000])
GPT2_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
TAIL = r"""| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
CONTRACTIONS = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+"""
PATTERNS = {
    "gpt-2": GPT2_WORDS,
    "llama-bpe": CONTRACTIONS + r"|\p{N}{1,3}" + TAIL,
    "qwen2": CONTRACTIONS + r"|\p{N}" + TAIL,
}


def byte_level_metadata(pre: str) -> dict[str, Any]:
    """Return the metadata of a GGUF file with RANKS and a control token after them."""
    char_of = {byte: char for char, byte in byte_alphabet().items()}

    def spelled(token: bytes) -> str:
        return "".join(char_of[byte] for byte in token)

    merges = []
    for token, rank in RANKS.items():
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:  # merge in the order of training: lower ranks first
            pairs = [RANKS.get(left + right, rank) for left, right in pairwise(parts)]
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        merges += [" ".join(map(spelled, parts))] if len(parts) == 2 else []
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*map(spelled, RANKS), "<|end|>"],
        "tokenizer.ggml.token_type": [1] * len(RANKS) + [3],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(RANKS),
        "tokenizer.ggml.eos_token_id": len(RANKS),
    }


@pytest.fixture(scope="module", params=sorted(PATTERNS))
def byte_level(request: pytest.FixtureRequest) -> tuple[HuggingFaceTokenizer, tiktoken.Encoding, bool]:
    """A tokenizer per pre-tokenizer, an equal tiktoken encoding, and whether text is normalized to NFC."""
    pre = request.param
    tokenizer = tokenizer_from_gguf(byte_level_metadata(pre) | {"tokenizer.ggml.add_bos_token": False})
    assert tokenizer is not None
    return (
        tokenizer,
        tiktoken.Encoding(pre, pat_str=PATTERNS[pre], mergeable_ranks=RANKS, special_tokens={}),
        (pre == "qwen2"),
    )


class TestByteLevel:
    @given(text=texts)
    def test_every_pre_tokenizer_gives_the_ids_that_tiktoken_gives(
        self, text: str, byte_level: tuple[HuggingFaceTokenizer, tiktoken.Encoding, bool]
    ) -> None:
        tokenizer, oracle, wants_nfc = byte_level
        expected = unicodedata.normalize("NFC", text) if wants_nfc else text
        assert tokenizer.encode(text) == oracle.encode_ordinary(expected)
        assert tokenizer.decode(tokenizer.encode(text)) == expected

    def test_bos_is_added_when_the_file_says_so_and_by_default_only_for_llama_3(self) -> None:
        def first(**changes: Any) -> int:
            metadata = byte_level_metadata(changes.pop("pre")) | {
                f"tokenizer.ggml.{key}": value for key, value in changes.items()
            }
            tokenizer = tokenizer_from_gguf(metadata)
            assert tokenizer is not None
            assert tokenizer.encode("<|end|>a", allow_special=True) == [len(RANKS), *tokenizer.encode("a")[-1:]]
            return tokenizer.encode("a")[0]

        bos = len(RANKS)
        assert first(pre="llama-bpe") == bos
        assert first(pre="llama-bpe", add_bos_token=False) != bos
        assert first(pre="gpt-2") != bos
        assert first(pre="gpt-2", add_bos_token=True) == bos

    def test_all_kinds_of_end_tokens_are_end_tokens(self) -> None:
        ends = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 9}
        tokenizer = tokenizer_from_gguf(byte_level_metadata("gpt-2") | ends)
        assert tokenizer is not None
        assert tokenizer.eos_token_ids == {7, 9, len(RANKS)}

    def test_tokens_known_by_name_end_a_completion_and_are_not_text(self) -> None:
        metadata = byte_level_metadata("gpt-2")
        metadata["tokenizer.ggml.tokens"] += ["<|im_end|>", "<|im_start|>"]
        metadata["tokenizer.ggml.token_type"] += [1, 3]
        tokenizer = tokenizer_from_gguf(metadata | {"tokenizer.ggml.eos_token_id": 7})
        assert tokenizer is not None
        assert tokenizer.eos_token_ids == {7, len(RANKS), len(RANKS) + 1}
        assert tokenizer.decode([len(RANKS) + 1]) == ""
        assert len(RANKS) + 1 not in tokenizer.encode("<|im_end|>")

    @pytest.mark.parametrize(
        ("tokens", "ends"),
        [
            (["<|return|>", "<|call|>", "<|end|>"], {0, 1}),
            (["<|calls|>", "<|flush|>", "<|end|>"], {0, 1}),
            (["<|return|>", "<|end|>"], {0, 1}),
            (["</s>", "<|tool_response>"], {1}),
            (["</s>", "<pad>"], {0}),
        ],
    )
    def test_a_name_that_means_something_else_in_a_vocabulary_ends_nothing(
        self, tokens: list[str], ends: set[int]
    ) -> None:
        assert eos_token_ids({"tokenizer.ggml.tokens": tokens}) == ends

    def test_a_user_defined_token_is_matched_whole_and_decodes_to_itself(self) -> None:
        metadata = byte_level_metadata("gpt-2")
        metadata["tokenizer.ggml.tokens"] += ["<think é>"]
        metadata["tokenizer.ggml.token_type"] += [4]
        tokenizer = tokenizer_from_gguf(metadata)
        assert tokenizer is not None
        assert tokenizer.encode("<think é>") == [len(RANKS) + 1]
        assert tokenizer.decode([len(RANKS) + 1]) == "<think é>"


def sentencepiece_encode(text: str, metadata: dict[str, Any]) -> list[int]:
    """Encode with SentencePiece BPE by its definition: merge the neighbours with the best score, leftmost first."""
    tokens = metadata["tokenizer.ggml.tokens"]
    normal = {
        token: score
        for token, score, kind in zip(
            tokens, metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"], strict=True
        )
        if kind == 1
    }
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    prefix = "\u2581" if text else ""
    parts = list((prefix + text).replace(" ", "\u2581"))
    while True:
        joints = [(normal.get(left + right), -at) for at, (left, right) in enumerate(pairwise(parts))]
        known = [joint for joint in joints if joint[0] is not None]
        if not known:
            break
        at = -max(known)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    by_byte = [[ids[part]] if part in normal else [3 + byte for byte in part.encode()] for part in parts]
    return [1, *chain.from_iterable(by_byte)]


class TestSentencePiece:
    @given(
        text=st.one_of(texts, st.lists(st.sampled_from("the cat sat nïve日本xyza 01\u2581"), max_size=30).map("".join))
    )
    def test_ids_are_those_of_the_algorithm(
        self, text: str, sentencepiece: HuggingFaceTokenizer, sentencepiece_metadata: dict[str, Any]
    ) -> None:
        assert sentencepiece.encode(text) == sentencepiece_encode(text, sentencepiece_metadata)

    @given(text=texts.filter(lambda text: "\u2581" not in text))
    def test_decoding_gives_the_text_back(self, text: str, sentencepiece: HuggingFaceTokenizer) -> None:
        assert sentencepiece.decode(sentencepiece.encode(text)) == text

    def test_bos_comes_first_in_user_text_and_once_in_a_chat(self, sentencepiece: HuggingFaceTokenizer) -> None:
        assert sentencepiece.encode("the")[0] == 1
        assert sentencepiece.encode("<s>the", allow_special=True).count(1) == 1
        assert sentencepiece.encode("<s>the").count(1) == 1  # the BOS that is added; the spelled one is text

    def test_a_space_comes_before_every_text_and_after_every_special_token(
        self, sentencepiece: HuggingFaceTokenizer, sentencepiece_metadata: dict[str, Any]
    ) -> None:
        def spelled(text: str) -> list[str]:
            tokens = sentencepiece_metadata["tokenizer.ggml.tokens"]
            return [tokens[token_id] for token_id in sentencepiece.encode(text, allow_special=True)]

        assert "".join(spelled(" the")) == "\u2581\u2581the"
        assert spelled("<s>the</s><s>cat") == ["<s>", "\u2581the", "</s>", "<s>", "\u2581cat"]
        assert spelled("<s></s>") == ["<s>", "</s>"]
        assert sentencepiece.decode(sentencepiece.encode(" the")) == " the"

    def test_eos_comes_last_if_the_file_says_so(self, sentencepiece_metadata: dict[str, Any]) -> None:
        tokenizer = tokenizer_from_gguf(sentencepiece_metadata | {"tokenizer.ggml.add_eos_token": True})
        assert tokenizer is not None
        assert (tokenizer.encode("the")[0], tokenizer.encode("the")[-1]) == (1, 2)
        assert 2 not in tokenizer.encode("the", allow_special=True)

    def test_control_tokens_of_phi_3_absorb_the_spaces_after_them(self, sentencepiece_metadata: dict[str, Any]) -> None:
        def encoded(name: str, text: str) -> list[int]:
            tokenizer = tokenizer_from_gguf(sentencepiece_metadata | {"general.name": name})
            assert tokenizer is not None
            return tokenizer.encode(text, allow_special=True)

        assert encoded("Phi-3 mini", "</s>  \n the") == encoded("Phi-3 mini", "</s>the") == encoded("Llama", "</s>the")
        assert encoded("Llama", "</s>  the") != encoded("Llama", "</s>the")
        assert encoded("Phi-3 mini", "<s> the") == encoded("Llama", "<s> the")

    def test_without_a_space_prefix_none_is_added_and_none_is_stripped(
        self, sentencepiece_metadata: dict[str, Any]
    ) -> None:
        tokenizer = tokenizer_from_gguf(sentencepiece_metadata | {"tokenizer.ggml.add_space_prefix": False})
        assert tokenizer is not None
        assert tokenizer.decode(tokenizer.encode("the")) == "the"
        assert tokenizer.decode(tokenizer.encode(" the")) == " the"


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"model": "t5"}, r"'t5' \(Unigram.*gpt2 or llama"),
            ({"model": "bert"}, r"'bert' \(WordPiece.*gpt2 or llama"),
            ({"model": "new"}, r"'new' is not supported: use a model of kind gpt2 or llama"),
            ({"pre": "kimi-k2"}, r"'kimi-k2'.*gpt-2 or.*llama-bpe.*qwen2"),
        ],
    )
    def test_an_unsupported_kind_is_refused_by_name_with_the_list(self, changes: dict[str, str], named: str) -> None:
        metadata = byte_level_metadata("gpt-2") | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        with pytest.raises(ModelError, match=named):
            tokenizer_from_gguf(metadata)

    @pytest.mark.parametrize(
        "changes",
        [
            {"merges": ["no merge of this vocabulary"]},
            {"merges": ["Ġ nosuchpiece"]},
            {"tokens": []},
            {"token_type": [1]},
            {"bos_token_id": 10**6, "add_bos_token": True},
            {"tokens": ["\udcff"], "token_type": [1], "merges": []},
        ],
    )
    def test_a_broken_vocabulary_is_a_model_error_in_one_line(self, changes: dict[str, Any]) -> None:
        metadata = byte_level_metadata("gpt-2") | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
        with pytest.raises(ModelError) as caught:
            tokenizer_from_gguf(metadata)
        assert "\n" not in str(caught.value)

    def test_a_gguf_without_a_tokenizer_has_none(self) -> None:
        assert tokenizer_from_gguf({}) is None
        assert tokenizer_from_gguf({"tokenizer.ggml.model": "none"}) is None
