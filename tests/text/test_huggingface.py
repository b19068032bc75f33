"""Tokenizers of the `tokenizers` library add BOS once, ignore spelled control tokens, and decode exact bytes."""

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from unicode_text import texts

from roseinfer.errors import ModelError
from roseinfer.text.huggingface import HuggingFaceTokenizer, read_tokenizer_json
from roseinfer.text.token_bytes import byte_alphabet

CONTROL = ["<s>", "</s>", "stop"]


def byte_level(**model_options: Any) -> tokenizers.Tokenizer:
    """Build a vocabulary of all bytes, a few merges, and control tokens, one of which is an ordinary word."""
    alphabet = sorted(byte_alphabet())
    merges = [("s", "t"), ("o", "p"), ("st", "op"), ("t", "h"), ("th", "e")]
    tokens = [*alphabet, *dict.fromkeys(left + right for left, right in merges), "<s>", "</s>"]
    model = models.BPE({token: n for n, token in enumerate(tokens)}, merges, **model_options)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    return tokenizer


class TestControlTokens:
    def test_raw_text_gets_bos_once_and_a_chat_template_contains_its_own(self) -> None:
        backend = byte_level()
        tokenizer, bos = HuggingFaceTokenizer(backend), backend.token_to_id("<s>")
        the = backend.token_to_id("the")
        assert tokenizer.encode("the") == [bos, the]
        assert tokenizer.encode("<s>the", allow_special=True) == [bos, the]
        assert tokenizer.encode("the", allow_special=True) == [the]
        assert tokenizer.encode("<s>the").count(bos) == 1

    @pytest.mark.parametrize("ignore_merges", [False, True])
    @given(text=st.lists(st.sampled_from([*CONTROL, "s", "top", " ", "<", "日"]), max_size=8).map("".join))
    def test_user_text_never_becomes_a_control_token(self, ignore_merges: bool, text: str) -> None:
        backend = byte_level(ignore_merges=ignore_merges)
        tokenizer = HuggingFaceTokenizer(backend)
        bos, *ids = tokenizer.encode(text)
        assert bos == backend.token_to_id("<s>")
        assert not {backend.token_to_id(token) for token in CONTROL} & set(ids)
        assert tokenizer.decode(ids) == text

    def test_calls_with_and_without_control_tokens_do_not_disturb_each_other(self) -> None:
        tokenizer = HuggingFaceTokenizer(byte_level())
        chat, plain = tokenizer.encode("</s>", allow_special=True), tokenizer.encode("</s>")
        assert chat != plain
        assert (tokenizer.encode("</s>", allow_special=True), tokenizer.encode("</s>")) == (chat, plain)


class TestBytes:
    @given(ids=st.lists(st.integers(0, 262), max_size=20))
    def test_byte_level_decoding_is_the_librarys(self, ids: list[int]) -> None:
        backend = byte_level()
        assert HuggingFaceTokenizer(backend).decode(ids) == backend.decode(ids, skip_special_tokens=True)

    @given(text=texts)
    def test_sentencepiece_decoding_is_the_librarys_for_text(
        self, text: str, sentencepiece: HuggingFaceTokenizer
    ) -> None:
        ids = sentencepiece.encode(text)
        assert sentencepiece.decode(ids) == sentencepiece._tokenizer.decode(ids, skip_special_tokens=True)

    def test_added_tokens_of_sentencepiece_spell_spaces_as_its_pieces_do(self) -> None:
        vocab = {"<unk>": 0, "\u2581": 1, "a": 2, "b": 3} | {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
        backend.normalizer = normalizers.Replace(" ", "\u2581")
        steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(steps)
        backend.add_tokens([AddedToken("\u2581\u2581", normalized=True, special=False)])
        tokenizer = HuggingFaceTokenizer(backend)
        ids = tokenizer.encode("a  b")
        assert ids == [2, 260, 3]
        assert tokenizer.decode(ids) == backend.decode(ids) == "a  b"

    def test_an_invalid_byte_leaves_the_character_next_to_it_intact(self, sentencepiece: HuggingFaceTokenizer) -> None:
        ids = [3 + byte for byte in "é".encode() + b"\xff"]
        assert sentencepiece.decode(ids) == "é\ufffd"

    def test_special_and_unknown_ids_have_no_bytes(self) -> None:
        backend = byte_level()
        tokenizer = HuggingFaceTokenizer(backend)
        for token_id in (backend.token_to_id("<s>"), 10**6, -1):
            assert tokenizer.token_bytes(token_id) == b""
            assert tokenizer.decode([token_id]) == ""

    def test_a_vocabulary_of_words_has_none_and_decodes_through_the_library(
        self, wordpieces: HuggingFaceTokenizer
    ) -> None:
        assert wordpieces.token_bytes(3) is None
        assert wordpieces.decode([1, 3, 4, 5, 10**6, -1]) == "the cats"


class TestFile:
    def test_a_saved_tokenizer_reads_back_without_its_training_settings(self, tmp_path: Path) -> None:
        backend = byte_level()
        backend.enable_truncation(4)
        backend.enable_padding(length=8)
        backend.save(str(tmp_path / "tokenizer.json"))
        tokenizer = HuggingFaceTokenizer(read_tokenizer_json(tmp_path / "tokenizer.json"))
        assert len(tokenizer.encode("x" * 20)) == 21
        assert len(tokenizer.encode("x")) == 2

    @pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"model": {"type": "NewKind"}}'])
    def test_a_broken_file_is_a_model_error_in_one_line(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ModelError, match=r"tokenizer\.json") as caught:
            read_tokenizer_json(tmp_path / "tokenizer.json")
        assert "\n" not in str(caught.value)


def test_lone_surrogates_encode_as_replacement_characters(demo_tokenizer: HuggingFaceTokenizer) -> None:
    assert demo_tokenizer.decode(demo_tokenizer.encode("a\udcffb")) == "a\ufffdb"
