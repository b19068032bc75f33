"""Wrap paragraphs for a terminal so that no number is parted from its unit."""

import re

from rich.cells import cell_len

from roseinfer.cli.visible_text import visible

_NO_BREAK = "\N{NO-BREAK SPACE}"
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[^\W\d_]|%)")
"""Space between a number and the word or sign that it counts."""


def bound_units(text: str) -> str:
    """Return the text with a no-break space between each number and its unit."""
    return _BEFORE_UNIT.sub(_NO_BREAK, text)


def wrapped(text: str, width: int) -> list[str]:
    """Split a paragraph into lines of at most `width` columns, without trailing blanks.

    A line ends between words, but not between a number and its unit. A longer word is split. All blanks in the result
    are plain spaces, so that a search for the text finds it.
    """
    lines: list[str] = []
    line = ""
    for word in bound_units(visible(text)).split(" "):
        if not word:
            continue
        longer = f"{line} {word}" if line else word
        if cell_len(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *full, line = _pieces(word, max(1, width))
        lines += full
    lines.append(line)
    return [one.replace(_NO_BREAK, " ").rstrip() for one in lines]


def _pieces(word: str, width: int) -> list[str]:
    """Split a word that is longer than a line. A blank where it is split is left out."""
    pieces = [""]
    for character in word:
        if cell_len(pieces[-1] + character) > width and pieces[-1]:
            pieces.append("")
        if pieces[-1] or character != _NO_BREAK:
            pieces[-1] += character
    return pieces
