"""Paragraphs wrap between words, but never between a number and its unit."""

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from roseinfer.cli.rendering.text_wrapping import bound_units, wrapped

_WORDS = st.lists(st.text("ab12.%_é表", min_size=1, max_size=9), max_size=30)


def test_a_number_stays_with_its_unit() -> None:
    text = "idle for 121.1 ms of 133.6 ms and 92.5 % of 4,953 GPU events"
    for width in range(9, len(text)):
        for line in wrapped(text, width):
            assert not re.search(r"\d$", line), (width, line)


def test_blanks_in_the_result_are_plain() -> None:
    assert wrapped("idle for 121.1 ms", 80) == ["idle for 121.1 ms"]
    assert bound_units("idle for 121.1 ms, 9 % of 12 steps") == "idle for 121.1\u00a0ms, 9\u00a0% of 12\u00a0steps"


def test_a_long_word_is_split_and_not_lost() -> None:
    assert wrapped("see aaaaaaaaaaaa now", 5) == ["see", "aaaaa", "aaaaa", "aa", "now"]
    assert wrapped("", 5) == [""]
    assert wrapped("1111 %", 2) == ["11", "11", "%"]


@given(words=_WORDS, width=st.integers(1, 40))
def test_lines_fit_and_hold_the_whole_text(words: list[str], width: int) -> None:
    text = " ".join(words)
    lines = wrapped(text, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(line == line.strip() for line in lines)
    assert all(cell_len(line) <= width or len(line) == 1 for line in lines)
