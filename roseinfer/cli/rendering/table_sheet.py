"""A titled table of text, rendered alike by the terminal, Markdown, HTML and notebooks."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

CellKind = Literal["name", "text", "number", "change", "bar"]
"""`change` is a signed percentage of a cost, so plus is worse, or one of a few words. `bar` is a percentage to draw."""

TOTAL = "wall time"
"""First cell of the row that the rows above add up to."""

_MARKS: dict[str, CellKind] = {"*": "name", "-": "text", "~": "change", "=": "bar"}
_WORDS = {"slower": True, "worse": True, "new": True, "faster": False, "better": False, "gone": False}
_CLEAR_PERCENT = 1.0
"""Change from which a figure counts as changed."""


class Sheet(NamedTuple):
    """A titled table. A renderer may shorten cells of kind "name" to fit a width, and leave out those of kind "bar"."""

    title: str
    columns: list[tuple[str, CellKind]]
    rows: list[list[str]]

    def without_bars(self) -> "Sheet":
        """Return the sheet without its columns of bars."""
        kept = [index for index, (_, kind) in enumerate(self.columns) if kind != "bar"]
        if len(kept) == len(self.columns):
            return self
        rows = [[row[index] for index in kept] for row in self.rows]
        return Sheet(self.title, [self.columns[index] for index in kept], rows)


def sheet(title: str, columns: Sequence[str], rows: list[list[str]]) -> Sheet:
    """Build a sheet from column titles, of which the first character may mark the kind.

    `*` marks names, `-` other text, `~` changes and `=` bars. Columns without a mark hold numbers.
    """
    return Sheet(title, [(one.lstrip("*-~="), _MARKS.get(one[0], "number")) for one in columns], rows)


def milliseconds(value: float) -> str:
    """Format a time in ms with about four digits."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def rest(count: int) -> str:
    """Return the first cell of the row that stands for the rows left out."""
    return f"{count} more"


def is_rest(cell: str) -> bool:
    """True for a first cell that `rest` made."""
    return cell.removesuffix(" more").isdecimal() and cell.endswith(" more")


def is_worse(change: str) -> bool | None:
    """Return True if a cell of kind "change" is a change for the worse, False for the better; None if it is neither."""
    if change in _WORDS:
        return _WORDS[change]
    try:
        percent = float(change)
    except ValueError:
        return None
    return percent > 0 if abs(percent) >= _CLEAR_PERCENT else None
