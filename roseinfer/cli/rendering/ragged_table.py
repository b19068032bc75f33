"""A table for a terminal without trailing blanks."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table


class RaggedTable(Table):
    """A table whose lines have no trailing blanks, without the blank lines that stand for borders."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the table that are not blank, without their trailing blanks."""
        parts = list(super().__rich_console__(console, options))
        for line in Segment.split_lines(part for part in parts if isinstance(part, Segment)):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(), line[-1].style)
                yield Segment.line()
