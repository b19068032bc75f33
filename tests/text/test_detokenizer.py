"""Streamed text equals the decoded text, and only incomplete characters are held back."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unicode_text import texts

from roseinfer.text.detokenizer import (
    _LONG_WINDOW,
    ByteLevelDetokenizer,
    Detokenizer,
    PrefixDiffDetokenizer,
    detokenizers,
)
from roseinfer.text.gpt2_tokenizer import Gpt2Tokenizer
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.text.tokenizer import Tokenizer

BOTH = [ByteLevelDetokenizer, PrefixDiffDetokenizer]
Make = Callable[[Tokenizer], Detokenizer]


@pytest.fixture(scope="session", params=["gpt2", "demo_tokenizer", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Tokenizers that define the bytes of their tokens, which both detokenizers can stream."""
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


def pieces(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.finish()]


def without_cut_character(text: str) -> str:
    """Return the part of a text that may be streamed if the text ends inside a character."""
    return text.removesuffix("\ufffd")


@pytest.mark.parametrize("make", BOTH)
@given(text=texts)
def test_every_prefix_of_a_text_streams_to_its_decoding(text: str, make: Make, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    for length in range(len(ids) + 1):
        assert "".join(pieces(make(tokenizer), ids[:length])) == tokenizer.decode(ids[:length])


@pytest.mark.parametrize("make", BOTH)
@given(data=st.data())
def test_any_ids_stream_to_their_decoding(data: st.DataObject, make: Make, tokenizer: Tokenizer) -> None:
    # Low ids are single bytes and special tokens in all three vocabularies, which are the hard cases.
    some_id = st.one_of(st.integers(0, 300), st.integers(0, tokenizer.vocab_size + 5))
    ids = data.draw(st.lists(some_id, max_size=60))
    assert "".join(pieces(make(tokenizer), ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("make", BOTH)
@given(text=texts)
def test_a_stream_that_continues_a_text_adds_what_decoding_the_whole_adds(
    text: str, make: type[ByteLevelDetokenizer | PrefixDiffDetokenizer], tokenizer: Tokenizer
) -> None:
    # Whole characters only: a text that ends inside of one decodes to U+FFFD there.
    ids = [token_id for char in text for token_id in tokenizer.encode(char)]
    cut = len([token_id for char in text[: len(text) // 2] for token_id in tokenizer.encode(char)])
    before, after = ids[:cut], ids[cut:]
    assert tokenizer.decode(before) + "".join(pieces(make(tokenizer, before), after)) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 11), max_size=40), more=st.lists(st.integers(0, 11), max_size=10))
def test_words_without_byte_access_continue_a_text(
    ids: list[int], more: list[int], wordpieces: HuggingFaceTokenizer
) -> None:
    streamed = "".join(pieces(detokenizers(wordpieces)(ids), more))
    assert wordpieces.decode(ids) + streamed == wordpieces.decode(ids + more)


def test_a_continued_text_keeps_its_space_and_a_new_text_loses_the_one_that_was_added(
    sentencepiece: HuggingFaceTokenizer,
) -> None:
    new, space_cat = detokenizers(sentencepiece), sentencepiece.encode("cat")[1:]
    assert "".join(pieces(new(), space_cat)) == "cat"
    assert "".join(pieces(new([1]), space_cat)) == "cat"
    assert "".join(pieces(new(sentencepiece.encode("the")), space_cat)) == " cat"


@given(data=st.data())
def test_streams_of_one_tokenizer_do_not_disturb_each_other(data: st.DataObject, tokenizer: Tokenizer) -> None:
    new, some_id = detokenizers(tokenizer), st.integers(0, 300)
    streams = [data.draw(st.lists(some_id, min_size=20, max_size=20)) for _ in range(3)]
    made = [new() for _ in streams]
    said = ["" for _ in streams]
    for turn in zip(*streams, strict=True):
        said = [text + one.add(token_id) for text, one, token_id in zip(said, made, turn, strict=True)]
    whole = [text + one.finish() for text, one in zip(said, made, strict=True)]
    assert whole == [tokenizer.decode(ids) for ids in streams]


@pytest.mark.parametrize("make", BOTH)
@given(text=texts.filter(lambda text: "\ufffd" not in text))
def test_no_replacement_character_is_streamed_and_no_whole_one_is_held_back(
    text: str, make: Make, tokenizer: Tokenizer
) -> None:
    ids, detokenizer, streamed = tokenizer.encode(text), make(tokenizer), ""
    for length, token_id in enumerate(ids, start=1):
        streamed += detokenizer.add(token_id)
        # The demo model's vocabulary lacks some bytes. A character with such a byte decodes to U+FFFD.
        if "\ufffd" not in tokenizer.decode(ids):
            assert streamed == without_cut_character(tokenizer.decode(ids[:length]))
    assert streamed + detokenizer.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("make", BOTH)
def test_a_family_of_emoji_arrives_character_by_character(make: Make, gpt2: Gpt2Tokenizer) -> None:
    text = "👩‍👩‍👧"
    shown = [piece for piece in pieces(make(gpt2), gpt2.encode(text)) if piece]
    assert shown == list(text)


@pytest.mark.parametrize("make", BOTH)
def test_a_character_that_never_becomes_whole_shows_at_the_end(make: Make, gpt2: Gpt2Tokenizer) -> None:
    first, *_ = gpt2.encode("語")
    assert pieces(make(gpt2), [first]) == ["", "\ufffd"]


@given(ids=st.lists(st.integers(0, 11), max_size=40))
def test_words_without_byte_access_stream_to_their_decoding(ids: list[int], wordpieces: HuggingFaceTokenizer) -> None:
    detokenizer = detokenizers(wordpieces)()
    assert isinstance(detokenizer, PrefixDiffDetokenizer)
    assert "".join(pieces(detokenizer, ids)) == wordpieces.decode(ids)


def test_the_space_before_a_word_survives_a_special_token(wordpieces: HuggingFaceTokenizer) -> None:
    the, cat, special = 3, 4, 1
    assert pieces(detokenizers(wordpieces)(), [the, special, special, cat]) == ["the", "", "", " cat", ""]


def test_the_factory_goes_by_bytes_where_there_are_any(tokenizer: Tokenizer) -> None:
    assert isinstance(detokenizers(tokenizer)(), ByteLevelDetokenizer)


@pytest.mark.parametrize("kind", ["words", "special tokens", "broken bytes", "cut characters"])
def test_the_window_stays_short_for_any_tokens(kind: str, gpt2: Gpt2Tokenizer) -> None:
    byte_id = {gpt2.token_bytes(token_id): token_id for token_id in range(256)}
    ids = {
        "words": gpt2.encode("the cat sat on the mat. " * 200),
        "special tokens": [*gpt2.encode("a"), *[50256] * 2000, *gpt2.encode(" b")],
        "broken bytes": [byte_id[b"\xff"]] * 2000,
        "cut characters": [byte_id[b"\xe4"], byte_id[b"\xbd"]] * 1000,
    }[kind]
    detokenizer = PrefixDiffDetokenizer(gpt2)
    text, longest = "", 0
    for token_id in ids:
        text += detokenizer.add(token_id)
        longest = max(longest, len(detokenizer._window))
    assert text + detokenizer.finish() == gpt2.decode(ids)
    assert longest <= 2 * _LONG_WINDOW


@settings(max_examples=25)
@given(
    ids=st.lists(
        st.sampled_from([b"\xf0", b"\x9f", b"\x98", b"\x80", b"\xff", b"a", b"\xe4"]), min_size=100, max_size=200
    )
)
def test_long_runs_of_broken_bytes_stream_to_their_decoding(ids: list[bytes], gpt2: Gpt2Tokenizer) -> None:
    byte_id = {gpt2.token_bytes(token_id): token_id for token_id in range(256)}
    numbers = [byte_id[byte] for byte in ids]
    assert "".join(pieces(PrefixDiffDetokenizer(gpt2), numbers)) == gpt2.decode(numbers)
