"""Answers as JSON: rows of the `--json` document, and lines of a file that --resume can continue."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from roseinfer.cli.generate.answer import Answer
from roseinfer.engine.outputs import RequestOutput
from roseinfer.errors import RoseinferError, UsageError


def rows(answer: Answer, *, has_text: bool) -> list[dict[str, Any]]:
    """Return a row per completion, or one row with the error. Without `has_text`, a row's `text` is null."""
    if answer.error is not None:
        return [{"id": answer.request.id, "error": answer.error}]
    return [_row(answer, output, has_text) for output in answer.outputs]


def _row(answer: Answer, output: RequestOutput, has_text: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": answer.request.id,
        "sample_index": output.sample_index,
        "n": answer.request.params.n,
        "text": output.text if has_text else None,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "prompt_tokens": len(output.prompt_token_ids),
        "ttft_ms": None if output.ttft_s is None else output.ttft_s * 1e3,
        "e2e_ms": (output.token_times_s[-1] - output.submitted_s) * 1e3 if output.token_times_s else None,
    }
    return row if output.logprobs is None else {**row, "logprobs": output.logprobs}


class AnswerLines:
    """A file of JSON lines, to which all rows of an answer are written at once."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name

    def write(self, answer_rows: Sequence[dict[str, Any]]) -> None:
        """Write the rows of one answer and flush them. Raises RoseinferError if that fails, as on a full disk."""
        data = memoryview(b"".join(msgspec.json.encode(row) + b"\n" for row in answer_rows))
        try:
            while data:
                data = data[self._file.write(data) :]
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            hint = "" if self._file is sys.stdout.buffer else "; --resume continues later"
            raise RoseinferError(f"cannot write to {self._name}: {error.strerror}{hint}") from None


@contextmanager
def open_lines(name: str, *, resume: bool) -> Iterator[AnswerLines]:
    """Open a file for answers, to append if `resume`; `-` is stdout.

    Raises UsageError for a file that cannot be written, or that is not empty although `resume` is false.
    """
    if name == "-":
        yield AnswerLines(sys.stdout.buffer, "stdout")
        return
    path = Path(name)
    try:
        if not resume and path.is_file() and path.stat().st_size > 0:
            raise UsageError(f"{name} already holds answers: add --resume to continue it, or name another file")
        file = path.open("ab", buffering=0)  # so closing it has nothing left to write
    except OSError as error:
        raise UsageError(f"cannot write to {name}: {error.strerror}") from None
    with file:
        yield AnswerLines(file, name)


def answered(name: str) -> set[str | int]:
    """Return the ids of the complete answers in a file, and cut off an incomplete answer at its end.

    Raises UsageError for a file that holds anything else.
    """
    ids: set[str | int] = set()
    path = Path(name)
    if not path.exists():
        return ids
    read = whole = 0  # bytes
    try:
        with path.open("r+b") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                read += len(line)
                row = _decode(line)
                if row is None:
                    raise UsageError(f"cannot resume {name}: line {number} is no answer of generate: name another file")
                if "error" in row or row["sample_index"] == row["n"] - 1:
                    ids.add(row["id"])
                    whole = read
            file.truncate(whole)
    except OSError as error:
        raise UsageError(f"cannot resume {name}: {error.strerror}") from None
    return ids


def _decode(line: bytes) -> dict[str, Any] | None:
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str | int):
        return None
    counts = (row.get("sample_index"), row.get("n"))
    return row if "error" in row or all(isinstance(count, int) for count in counts) else None
