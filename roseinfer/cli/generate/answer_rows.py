"""Files of answers as JSON lines, which --resume can continue."""

import os
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.answer import Answer, encoded

_SYNC_S = 1.0
"""Time between two writes of answers to the disk. A machine that loses its power loses the answers since then."""


class AnswerLines:
    """A file of JSON lines, to which all rows of an answer are written at once."""

    def __init__(
        self, file: BinaryIO, name: str, *, is_on_disk: bool, answered: Mapping[str | int, str | None]
    ) -> None:
        self.answered = answered
        """Ids of the requests that the file answered when it was opened, each with the digest of its prompt."""
        self._file = file
        self._name = name
        self._is_on_disk = is_on_disk
        self._synced_s = time.monotonic()

    def write(self, answer: Answer, *, has_text: bool) -> None:
        """Write the rows of one answer and flush them. Raises RoseinferError if that fails, as on a full disk."""
        self.write_encoded(encoded(answer, has_text=has_text))

    def write_encoded(self, lines: bytes) -> None:
        """Write the lines of whole answers, see `write`."""
        data = memoryview(lines)
        with self._failing_clearly():
            while data:
                data = data[self._file.write(data) :]
            self._file.flush()
            if time.monotonic() - self._synced_s >= _SYNC_S:
                self._sync()

    def close(self) -> None:
        """Make sure that the answers are on the disk. Raises RoseinferError if that fails."""
        with self._failing_clearly():
            self._sync()

    def _sync(self) -> None:
        if self._is_on_disk:
            os.fsync(self._file.fileno())
        self._synced_s = time.monotonic()

    @contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            hint = "" if self._file is sys.stdout.buffer else "; --resume continues later"
            raise RoseinferError(f"cannot write to {self._name}: {error.strerror}{hint}") from None


@contextmanager
def open_lines(name: str, *, resume: bool) -> Iterator[AnswerLines]:
    """Open a file for answers, to append if `resume`; `-` is stdout.

    Raises UsageError for a file that cannot be written, that another process writes, that is not empty although
    `resume` is false, or that does not hold answers although it is true.
    """
    if name == "-":
        yield AnswerLines(sys.stdout.buffer, "stdout", is_on_disk=False, answered={})
        return
    path = Path(name)
    try:
        file = path.open("ab", buffering=0)  # so closing it has nothing left to write
    except OSError as error:
        raise UsageError(f"cannot write to {name}: {error.strerror}") from None
    with file:
        lock(file, name)
        is_on_disk = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if is_on_disk and not resume and path.stat().st_size > 0:
            raise UsageError(f"{name} already holds answers: add --resume to continue it, or name another file")
        answered = _answered(path) if resume and is_on_disk else {}
        lines = AnswerLines(file, name, is_on_disk=is_on_disk, answered=answered)
        try:
            yield lines
        except KeyboardInterrupt:
            lines.close()
            raise
        lines.close()


def lock(file: BinaryIO, name: str) -> None:
    """Lock the file until it is closed. Raises UsageError if another process has locked it."""
    try:
        import fcntl  # not on Windows

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process writes to {name}: wait until it ends, or name another file") from None
    except (ImportError, OSError):  # a file system without locks
        return


def _answered(path: Path) -> dict[str | int, str | None]:
    """Return the ids of the complete answers in a file, and cut off an incomplete answer at its end.

    Each id has the digest of its prompt; None in files of earlier versions. Raises UsageError for a file that holds
    anything else.
    """
    answered: dict[str | int, str | None] = {}
    read = whole = 0  # bytes
    try:
        with path.open("r+b") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                read += len(line)
                row = read_row(line)
                if row is None:
                    raise UsageError(f"cannot resume {path}: line {number} is no answer of generate: name another file")
                if row.is_last:
                    answered[row.id] = row.prompt_digest
                    whole = read
            file.truncate(whole)
    except OSError as error:
        raise UsageError(f"cannot resume {path}: {error.strerror}") from None
    return answered


class AnswerRow(msgspec.Struct, frozen=True):
    """The fields of a line that say which completion of which request it holds."""

    id: str | int
    sample_index: int = -1
    n: int = 0
    """Both are missing only in the answer of an error."""
    error: str | None = None
    """Message in place of all completions of the request."""
    prompt_digest: str | None = None
    """None for an error, and in files of earlier versions."""
    token_ids: msgspec.Raw = msgspec.Raw()
    """A list, and missing only in the answer of an error. Not decoded: only its place matters."""

    @property
    def is_last(self) -> bool:
        """True for the last line of an answer."""
        return self.error is not None or self.sample_index == self.n - 1


_decode = msgspec.json.Decoder(AnswerRow).decode


def read_row(line: bytes) -> AnswerRow | None:
    """Return the row of a line of an answer file; None if the line is no whole row."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    has_tokens = bytes(row.token_ids).startswith(b"[") and 0 <= row.sample_index < row.n
    return row if row.error is not None or has_tokens else None
