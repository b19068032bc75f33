"""Stop strings end a text as soon as one of them is complete, however the text is divided into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.text.stop import StopStrings

# A small alphabet makes stop strings occur, overlap, and begin without being completed.
ALPHABET = "ab🙂"
texts = st.text(ALPHABET, max_size=40)
stop_lists = st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4)


def until_stop(text: str, stops: list[str]) -> str:
    """Return the text before the stop string that is complete first, or the longest if several are complete at once."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    places = sorted(cut % (len(text) + 1) for cut in cuts)
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(text=texts, stops=stop_lists, cuts=st.lists(st.integers(0, 1000), max_size=30))
def test_pieces_give_the_text_up_to_the_first_stop_however_they_are_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    expected = until_stop(text, stops)
    search = StopStrings(stops)
    emitted = ""
    for piece in pieces_of(text, cuts):
        emitted += search.add(piece)
        # No returned text may turn out to be part of a stop string.
        assert expected.startswith(emitted)
    assert search.found == (expected != text)
    assert emitted + search.finish() == expected


@given(text=texts, stops=stop_lists)
def test_no_more_is_held_back_than_may_begin_a_stop(text: str, stops: list[str]) -> None:
    search = StopStrings(stops)
    emitted = "".join(search.add(char) for char in text)
    if not search.found:
        held = text[len(emitted) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize("pieces", [["xabcd"], [*"xabcd"], ["xab", "cd"]])
def test_a_stop_within_a_longer_one_is_complete_first(pieces: list[str]) -> None:
    search = StopStrings(["abcd", "bc"])
    assert "".join([search.add(piece) for piece in pieces] + [search.finish()]) == "xa"


def test_a_stop_over_three_pieces_is_not_shown() -> None:
    search = StopStrings(["</answer>"])
    assert [search.add(piece) for piece in ("42</an", "sw", "er>43", "44")] == ["42", "", "", ""]
    assert (search.found, search.finish()) == (True, "")


def test_what_only_began_like_a_stop_is_shown_in_the_end() -> None:
    search = StopStrings(["STOP"])
    assert search.add("a ST") == "a "
    assert search.finish() == "ST"
    assert not search.found


def test_without_stop_strings_everything_passes_at_once() -> None:
    assert [StopStrings(stops).add("text") for stops in ([], [""])] == ["text", "text"]
