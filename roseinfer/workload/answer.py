"""The answer to one request, and its form as JSON."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from roseinfer.engine.outputs import RequestOutput
from roseinfer.errors import UsageError
from roseinfer.workload.workload_request import WorkloadRequest


@dataclass
class Answer:
    """A request with its `n` completions, or with the reason why it was refused."""

    request: WorkloadRequest
    outputs: list[RequestOutput] = field(default_factory=list)
    """Finished completions, ordered by sample index once the answer is complete."""
    error: str | None = None

    @property
    def is_complete(self) -> bool:
        """True if no completion is outstanding."""
        return self.error is not None or len(self.outputs) == self.request.params.n

    def add(self, output: RequestOutput) -> None:
        """Add a finished completion."""
        self.outputs.append(output)
        if self.is_complete:
            self.outputs.sort(key=lambda each: each.sample_index)


def rows(answer: Answer, *, has_text: bool) -> list[dict[str, Any]]:
    """Return a row per completion, or one row with the error. Without `has_text`, a row's `text` is null."""
    if answer.error is not None:
        return [{"id": answer.request.id, "error": answer.error}]
    return [_row(answer, output, has_text) for output in answer.outputs]


def encoded(answer: Answer, *, has_text: bool) -> bytes:
    """Return the lines of an answer in a file: its `rows`, each with the digest of the prompt that it answers."""
    digest = {} if answer.error is not None else {"prompt_digest": prompt_digest(answer.request)}
    return b"".join(msgspec.json.encode({**row, **digest}) + b"\n" for row in rows(answer, has_text=has_text))


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


def prompt_digest(request: WorkloadRequest) -> str:
    """Return a short digest of a request's prompt, as the user wrote it."""
    return hashlib.blake2b(msgspec.json.encode(request.prompt), digest_size=8).hexdigest()


def check_unchanged(request: WorkloadRequest, done: Mapping[str | int, str | None]) -> None:
    """Raise UsageError if a request in `done` has another prompt than the one whose digest is there."""
    if done[request.id] not in (None, prompt_digest(request)):
        raise UsageError(
            f"request {request.id!r} has another prompt than the one that the file answers: give it another id, or "
            "name another --output"
        )
