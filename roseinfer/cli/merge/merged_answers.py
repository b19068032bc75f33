"""Files of answers by request id: are they complete, and in the order of the requests.

Only places in the files are kept in memory, so that the answers may be larger.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypedDict

from roseinfer.cli.generate.answer_rows import AnswerRow, read_row
from roseinfer.config import SamplingParams
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.progress import ProgressCallback
from roseinfer.workload.answer import prompt_digest
from roseinfer.workload.request_lines import count_requests, read_requests

_MAX_OPEN_FILES = 128

RequestId = str | int


class MergeStatistics(TypedDict):
    """Counts of a complete set of answers."""

    files: int
    requests: int
    answers: int
    errors: int
    """Answers that hold an error."""


class _Place(NamedTuple):
    """Where an answer is: the lines of all completions of one request."""

    file: int
    start: int
    length: int
    digest: str | None
    is_error: bool


@dataclass
class AnswerIndex:
    """The answers of some files, by request id."""

    files: list[Path]
    places: dict[RequestId, list[_Place]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    """A sentence per line or answer that is damaged."""

    @classmethod
    def of(cls, sources: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> "AnswerIndex":
        """Read all answers. Raises UsageError for a file that cannot be read, or a folder without *.jsonl files."""
        index = cls([file for source in sources for file in _files(source)])
        for number, path in enumerate(index.files):
            if on_progress is not None:
                on_progress(number, len(index.files))
            try:
                with path.open("rb") as file:
                    index._read(number, file)
            except OSError as error:
                raise UsageError(f"cannot read {path}: {error.strerror}") from None
        return index

    def check(self, requests: str) -> MergeStatistics:
        """Raise RoseinferError unless every request of the file has exactly one answer, to the prompt that it has."""
        if count_requests(requests) is None:
            raise UsageError("--input is read twice: give a file, not stdin or a pipe")
        expected: Counter[RequestId] = Counter()
        missing, changed = [], []
        for request in read_requests(requests, SamplingParams(), keep_wrong=True):
            at, found = expected[request.id], self.places.get(request.id, [])
            expected[request.id] += 1
            if at >= len(found):
                missing.append(repr(request.id))
            elif found[at].digest not in (None, prompt_digest(request)):
                changed.append(repr(request.id))
        doubled = [
            f"{name!r} in {' and '.join(sorted({str(self.files[place.file]) for place in found}))}"
            for name, found in self.places.items()
            if len(found) > expected[name] > 0
        ]
        unknown = [repr(name) for name in self.places if expected[name] == 0]
        problems = [
            f"{len(found):,} {what}, first {found[0]}"
            for what, found in (
                ("requests without an answer", missing),
                ("requests with several answers", doubled),
                ("answers to another prompt", changed),
                ("answers to no request", unknown),
                ("damaged answers", self.damaged),
            )
            if found
        ]
        if problems:
            raise RoseinferError(f"the answers are not complete: {'; '.join(problems)}")
        answers = [place for found in self.places.values() for place in found]
        errors = sum(place.is_error for place in answers)
        return {"files": len(self.files), "requests": expected.total(), "answers": len(answers), "errors": errors}

    def _read(self, number: int, file: BinaryIO) -> None:
        start, rows = 0, 0  # of the answer that is being read: its first byte, its rows so far
        first: AnswerRow | None = None
        end = 0
        for line_number, line in enumerate(file, start=1):
            row = read_row(line)
            if first is not None and (row is None or (row.id, row.sample_index, row.n) != (first.id, rows, first.n)):
                self.damaged.append(f"{self.files[number]}: {first.id!r} has {rows} of {first.n} completions")
                first = None
            if row is None or (first is None and row.error is None and row.sample_index != 0):
                self.damaged.append(f"{self.files[number]} line {line_number}")
            else:
                if first is None:
                    first, start, rows = row, end, 0
                rows += 1
                if row.is_last:
                    length = end + len(line) - start
                    place = _Place(number, start, length, first.prompt_digest, row.error is not None)
                    self.places.setdefault(row.id, []).append(place)
                    first = None
            end += len(line)
        if first is not None:
            self.damaged.append(f"{self.files[number]}: {first.id!r} has {rows} of {first.n} completions")


def merged(index: AnswerIndex, requests: str) -> Iterator[bytes]:
    """Yield the lines of each answer in the order of the requests. The index must have passed `check`."""
    taken: Counter[RequestId] = Counter()
    opened: OrderedDict[int, BinaryIO] = OrderedDict()
    try:
        for request in read_requests(requests, SamplingParams(), keep_wrong=True):
            place = index.places[request.id][taken[request.id]]
            taken[request.id] += 1
            if place.file not in opened:
                if len(opened) == _MAX_OPEN_FILES:
                    opened.popitem(last=False)[1].close()
                opened[place.file] = index.files[place.file].open("rb")
            opened.move_to_end(place.file)
            opened[place.file].seek(place.start)
            yield opened[place.file].read(place.length)
    finally:
        for file in opened.values():
            file.close()


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(source.glob("*.jsonl"))
    if not found:
        raise UsageError(f"{source} has no *.jsonl files: name the folder that `generate --shard` wrote to")
    return found
