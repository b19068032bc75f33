"""Where the answers of a job on Ray go: a file per block in a folder, or one file in the order of the requests."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from roseinfer.cli.generate.answer_rows import AnswerLines, lock, open_lines, read_row
from roseinfer.errors import UsageError
from roseinfer.whole_file import write_whole


class BlockSink(Protocol):
    """Takes the answers of blocks, in any order."""

    @property
    def answered(self) -> Mapping[str | int, str | None]:
        """Ids of the requests that were answered earlier, each with the digest of its prompt."""

    def add(self, number: int, place: int, lines: bytes) -> None:
        """Take the lines of block `number`, whose first request has this place in the input."""


class OrderedFile:
    """One file of answers. Blocks that arrive early wait in memory for those before them."""

    def __init__(self, lines: AnswerLines) -> None:
        self.answered = lines.answered
        self._lines = lines
        self._next = 0
        self._early: dict[int, bytes] = {}

    def add(self, number: int, place: int, lines: bytes) -> None:
        self._early[number] = lines
        while self._next in self._early:
            self._lines.write_encoded(self._early.pop(self._next))
            self._next += 1


class BlockFolder:
    """A folder with a file per block, which is there whole or not at all.

    A file has the place of its first request as name. So the files of one run are in the order of the requests, and a
    later run, which answers other requests, replaces none of them.
    """

    def __init__(self, folder: Path, answered: Mapping[str | int, str | None]) -> None:
        self.answered = answered
        self._folder = folder

    def add(self, number: int, place: int, lines: bytes) -> None:
        write_whole(self._folder / f"answers-{place:010}.jsonl", lines)


@contextmanager
def open_sink(name: str, *, is_folder: bool, resume: bool) -> Iterator[BlockSink]:
    """Open a file, stdout (`-`) or a folder for answers. Raises UsageError as `open_lines` does."""
    if not is_folder:
        with open_lines(name, resume=resume) as lines:
            yield OrderedFile(lines)
        return
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = (folder / ".lock").open("wb")
    except OSError as error:
        raise UsageError(f"cannot write to the folder {folder}: {error.strerror}") from None
    with lock_file:
        lock(lock_file, name)
        files = sorted(folder.glob("*.jsonl"))
        if files and not resume:
            raise UsageError(f"{name} already holds answers: add --resume to continue it, or name another folder")
        yield BlockFolder(folder, _answered(files))


def _answered(files: list[Path]) -> dict[str | int, str | None]:
    answered: dict[str | int, str | None] = {}
    for path in files:
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    row = read_row(line)
                    if row is None:
                        raise UsageError(f"cannot resume {path}: line {number} is no answer of generate: move the file")
                    if row.is_last:
                        answered[row.id] = row.prompt_digest
        except OSError as error:
            raise UsageError(f"cannot resume {path}: {error.strerror}") from None
    return answered
