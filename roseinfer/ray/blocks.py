"""Blocks of requests, and their answers: the reader and the actors of a job exchange them.

Imports no torch: the process that reads requests needs none.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from roseinfer.config import SamplingParams
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.workload.answer import check_unchanged
from roseinfer.workload.request_lines import read_requests
from roseinfer.workload.workload_request import WorkloadRequest


class PlacedRequest(NamedTuple):
    """A request with its place, from which the seeds of requests without a seed are derived."""

    place: int
    request: WorkloadRequest


class Failure(msgspec.Struct, frozen=True):
    """An error that ends the job, with the exit code of its kind."""

    message: str
    is_usage: bool

    @classmethod
    def of(cls, error: RoseinferError) -> "Failure":
        return cls(str(error), isinstance(error, UsageError))

    def error(self) -> RoseinferError:
        """Return the error, to be raised in another process."""
        return UsageError(self.message) if self.is_usage else RoseinferError(self.message)


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive requests that one task of an actor answers."""

    number: int
    """From 0, in the order of the requests."""
    requests: list[PlacedRequest] = []
    drawn: tuple[int, int] | None = None
    """In place of requests: those from one number to another of the configured workload, which each actor draws."""
    records: bool = False
    """Record steps by `config.profile` from this block on, in the actor that gets it."""
    failure: Failure | None = None
    """Error at which the reading of requests ended."""


class BlockAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to a block, and what they took. Times are in seconds since the epoch, on the actor's node."""

    number: int
    place: int = 0
    """Place of the block's first request in the input, from 0."""
    lines: bytes = b""
    answers: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    actor: str = ""
    """Node and process of the actor."""
    started_s: float = 0.0
    ended_s: float = 0.0
    startup_s: float = 0.0
    """Seconds that building the engine took, waiting for the node's first actor included."""
    idle_s: float = 0.0
    """Seconds so far, since the actor's first block, in which its engine had no request."""
    files: dict[str, bytes] = {}
    """Files of a recorded run by name, if the block asked for them."""
    failure: Failure | None = None


class BlockReader:
    """Turns the one row of a dataset into the blocks of a job, as they are taken: a function for `map_batches`."""

    def __init__(self, read: Callable[[], Iterable[Block]]) -> None:
        self._read = read

    def __call__(self, _batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for block in self._read():
            yield {"block": [pickle.dumps(block)]}


def blocks(requests: Iterable[PlacedRequest], size: int) -> Iterator[Block]:
    """Yield the requests in blocks of `size`. If reading them fails, the last block has the failure."""
    number, full = 0, []
    failure: Failure | None = None
    try:
        for placed in requests:
            full.append(placed)
            if len(full) == size:
                yield Block(number=number, requests=full)
                number, full = number + 1, []
    except RoseinferError as error:
        failure = Failure.of(error)
    if full:
        yield Block(number=number, requests=full)
        number += 1
    if failure is not None:
        yield Block(number=number, failure=failure)


def drawn_blocks(total: int, size: int, recorded: int | None = None) -> Iterator[Block]:
    """Yield `total` requests of the configured workload in blocks of `size`; one block may start a recording."""
    for number, start in enumerate(range(0, total, size)):
        yield Block(number=number, drawn=(start, min(start + size, total)), records=number == recorded)


def unanswered(name: str, sampling: SamplingParams, done: Mapping[str | int, str | None]) -> Iterator[PlacedRequest]:
    """Yield the requests of files (see `read_requests`) that are not in `done`, which has the digests of prompts.

    Raises UsageError for a request in `done` whose prompt has changed.
    """
    for place, request in enumerate(read_requests(name, sampling, keep_wrong=True)):
        if request.id in done:
            check_unchanged(request, done)
        else:
            yield PlacedRequest(place, request)


def read_blocks(name: str, sampling: SamplingParams, done_ref: Any, size: int) -> Iterator[Block]:
    """Yield the unanswered requests of files in blocks of `size`. `done_ref` is a reference to `done` on Ray."""
    import ray

    return blocks(unanswered(name, sampling, ray.get(done_ref)), size)
