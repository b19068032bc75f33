"""Tables of text: columns of one-line cells, aligned, with a line below the titles.

A summary prints about ten tables. Rich's own tables take longer to lay out than the trace takes to read.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.text import Text

from roseinfer.cli.rendering.text_wrapping import wrapped
from roseinfer.cli.visible_text import visible

_GAP = "  "
_MIN_COLUMN = 3
_ELLIPSIS = "…"


class Cell(NamedTuple):
    """A cell of one line, in a style of rich."""

    text: str
    style: str = ""


def text_table(
    title: str, columns: Sequence[str], is_left: Sequence[bool], rows: Sequence[Sequence[Cell]], width: int
) -> Text:
    """Return a table of at most `width` columns, without trailing blanks. Longer cells end in an ellipsis."""
    rows = [[Cell(visible(text).replace("\n", " "), style) for text, style in row] for row in rows]
    lengths = [max(_length(name), *(_length(row[index].text) for row in rows), 0) for index, name in enumerate(columns)]
    lengths = _fitted(lengths, width - 1 - len(_GAP) * (len(columns) - 1))
    text = Text(no_wrap=True)
    text.append("\n".join(wrapped(title, width)), "bold")
    head = [Cell(name, "bold") for name in columns]
    rule = "─" * (sum(lengths) + len(_GAP) * (len(columns) - 1))
    for line in (_line(head, lengths, is_left), [(f" {rule}".rstrip(), "")]):
        _append(text, line)
    for row in rows:
        _append(text, _line(row, lengths, is_left))
    return text


def _append(text: Text, line: Iterable[tuple[str, str]]) -> None:
    text.append("\n")
    for piece, style in line:
        text.append(piece, style or None)


def _line(cells: Sequence[Cell], lengths: Sequence[int], is_left: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """Yield (text, style) pairs of a line up to its last cell that is not blank."""
    filled = [index for index, cell in enumerate(cells) if cell.text.strip()]
    blanks = 1
    for index in range(max(filled, default=-1) + 1):
        text, style = cells[index]
        text = _cut(text, lengths[index])
        missing = lengths[index] - _length(text)
        blanks += 0 if is_left[index] else missing
        yield " " * blanks, ""
        yield text, style
        blanks = len(_GAP) + (missing if is_left[index] else 0)


def _fitted(lengths: list[int], room: int) -> list[int]:
    """Return the lengths of columns with the longest ones reduced until all of them fit into `room`."""
    lengths = list(lengths)
    while sum(lengths) > room and max(lengths) > _MIN_COLUMN:
        lengths[lengths.index(max(lengths))] -= 1
    return lengths


def _cut(text: str, length: int) -> str:
    if _length(text) <= length:
        return text
    return chop_cells(text, length - len(_ELLIPSIS))[0] + _ELLIPSIS


def _length(text: str) -> int:
    """Return the columns of a terminal that the text takes."""
    return len(text) if text.isascii() else cell_len(text)
