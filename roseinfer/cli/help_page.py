"""Layout of the pages of `--help`.

Typer's own page splits words and truncates option names at 80 columns.
"""

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence

from roseinfer.cli import console

_MAX_WIDTH = 100
_NO_BREAK = "\N{NO-BREAK SPACE}"
_SHORT = 30
"""Length below which `[default: ...]` is never split between two lines."""
_HELP_COLUMN, _NARROW_HELP_COLUMN = 30, 8
_NARROW = 60
"""Width below which the help of an option is on the lines below its name."""
_QUANTITY = re.compile(r"(\d) (?=%|(?:s|ms|min|x|[KMG]i?B|tokens?|steps?|requests?|columns)\b)")
"""A blank between a number and its unit."""


class HelpPage:
    """A help page under construction."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._width = min(console.width(), _MAX_WIDTH)
        self._column = _HELP_COLUMN if self._width >= _NARROW else _NARROW_HELP_COLUMN
        self.has_colors = console.has_colors(sys.stdout)

    def usage(self, *words: str) -> None:
        """Append the line that shows how to call the command."""
        indent = " " * len("Usage: ")
        lines = _wrap(" ".join(words), self._width - len(indent))
        self._parts.append(self._styled("Usage:", "1") + " " + f"\n{indent}".join(lines) + "\n")

    def paragraphs(self, text: str) -> None:
        """Append paragraphs, which blank lines separate in `text`."""
        for paragraph in text.split("\n\n"):
            self._parts.append("\n" + "\n".join(_wrap(paragraph, self._width)) + "\n")

    def section(self, title: str, entries: Iterable[tuple[str, str]]) -> None:
        """Append a titled list of (name, help), the help on the next line if the name is too long."""
        for index, (name, about) in enumerate(entries):
            if index == 0:
                self._parts.append("\n" + self._styled(title, "1") + "\n")
            gap = self._column - len(name) - 2
            indent = "\n" + " " * self._column
            lines = _wrap(about, self._width - self._column)
            first = indent if gap < 2 else " " * gap
            self._parts.append(f"  {self._styled(name, '36')}{first}{indent.join(lines)}".rstrip() + "\n")

    def examples(self, examples: Sequence[tuple[str, str]]) -> None:
        """Append (what it does, command) pairs. Commands are never wrapped, so that they can be copied."""
        for index, (about, command) in enumerate(examples):
            if index == 0:
                self._parts.append("\n" + self._styled("Examples", "1") + "\n")
            comment = [f"  # {line}" for line in _wrap(about, self._width - 4)]
            self._parts.append(self._styled("\n".join(comment), "2") + f"\n  {command}\n")

    def rendered(self) -> str:
        """Return the page, with colours if stdout has them."""
        return "".join(self._parts)

    def _styled(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colors else text


def with_default(about: str, default: str | None) -> str:
    """Return the help of an option with its default in brackets, if there is one."""
    if default is None:
        return about
    bracket = f"[default: {default}]."
    # No-break spaces keep a short `[default: ...]` on one line.
    return f"{about.rstrip('.')} {bracket.replace(' ', _NO_BREAK) if len(bracket) < _SHORT else bracket}"


def _wrap(text: str, width: int) -> list[str]:
    """Split text into lines at blanks, but not between a number and its unit."""
    text = _QUANTITY.sub(rf"\1{_NO_BREAK}", text)
    # Without this, textwrap would take the no-break space for a blank at which it may split.
    lines = textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in lines]
