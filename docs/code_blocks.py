"""The code blocks of README.md and docs/: which of them run, where, and what they print.

A reader copies a page's `console` and `python` blocks from top to bottom, so they run in that order, with the
repository's root as the folder:

- The commands of a `console` block are its lines that begin with `$ `, with their continuation lines (after a
  backslash). The lines below a command are its output.
- All `python` blocks of a page are one program, in one process.

Blocks of other languages are never run. A comment on the line before a block says what is special about it:

    <!-- run: gpu -->           needs a GPU
    <!-- run: slow -->          takes longer than a test may: only docs/follow.py runs it
    <!-- run: exit 3 -->        its last command ends with exit code 3; the others always with 0
    <!-- run: same output -->   prints exactly what the page shows; a line `...` stands for any lines
    <!-- run: record -->        docs/record.py replaces the output that the page shows by the real one
    <!-- run: by hand -->       is not run: it needs a person, a browser or a network

Several are separated by commas.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKS = ("gpu", "slow", "same output", "record", "by hand")

_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_MARKS = re.compile(r"^ *<!-- run: (.+) -->\s*$")


@dataclass(frozen=True)
class Command:
    """One command of a console block, with the output that the page shows below it."""

    text: str
    """Without the prompt; continuation lines included."""
    output: str
    line: int
    """Number of its line in the page, counted from 1."""
    exit_code: int = 0


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Number of the line of the opening fence, counted from 1."""
    language: str
    text: str
    marks: frozenset[str] = frozenset()
    exit_code: int = 0
    commands: tuple[Command, ...] = field(default=())
    """Commands of a console block."""


def pages() -> list[Path]:
    """Return README.md and the pages of docs/, in the order of their names."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page. Raises ValueError for a mark that does not exist, naming its line."""
    return list(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def runnable(page: Path) -> list[Block]:
    """Return the blocks of a page that are run somewhere, in order."""
    return [block for block in blocks(page) if block.language in {"console", "python"} and "by hand" not in block.marks]


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        if opening is None:
            at += 1
            continue
        closing = next(
            (i for i in range(at + 1, len(lines)) if lines[i].strip() == "```"),
            None,
        )
        if closing is None:
            raise ValueError(f"{page}:{at + 1}: the block is not closed")
        indent, language = len(opening[1]), opening[2]
        content = [line[indent:] if line[:indent].isspace() else line for line in lines[at + 1 : closing]]
        marks, exit_code = _read_marks(page, lines, at)
        commands = tuple(_commands(content, at + 2, exit_code)) if language == "console" else ()
        text = "".join(f"{line}\n" for line in content)
        yield Block(page, at + 1, language, text, marks, exit_code, commands)
        at = closing + 1


def _read_marks(page: Path, lines: list[str], at: int) -> tuple[frozenset[str], int]:
    """Return the marks of the block whose fence is line `at`, and the exit code of its last command."""
    marked = _MARKS.match(lines[at - 1]) if at else None
    if marked is None:
        return frozenset(), 0
    exit_code, marks = 0, set()
    for mark in re.split(r", *", marked[1].strip()):
        if code := re.fullmatch(r"exit (\d+)", mark):
            exit_code = int(code[1])
        elif mark in MARKS:
            marks.add(mark)
        else:
            raise ValueError(f"{page}:{at}: no mark {mark!r}: use exit N, {', '.join(MARKS)}")
    return frozenset(marks), exit_code


def _commands(content: list[str], first_line: int, exit_code: int) -> Iterator[Command]:
    """Yield the commands of a console block; `exit_code` is that of the last."""
    starts = [index for index, line in enumerate(content) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        last = start
        while content[last].endswith("\\") and last + 1 < end:
            last += 1
        text = "\n".join([content[start][2:], *content[start + 1 : last + 1]])
        output = "".join(f"{line}\n" for line in content[last + 1 : end])
        yield Command(text, output, first_line + start, exit_code if start == starts[-1] else 0)
