"""One generation job, what a step tells of it, and what it ends as. No torch in here."""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from roseinfer.config import SamplingParams

FinishReason = Literal["stop", "length", "abort"]


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One new token of one request; `text` may be empty while a character is incomplete."""

    request_id: int
    token_id: int
    text: str
    finish_reason: FinishReason | None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A finished request. Times are seconds on `time.perf_counter`'s clock."""

    request_id: int
    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    submitted_s: float
    token_times_s: list[float]
    """When each completion token was there."""

    @property
    def ttft_s(self) -> float | None:
        """Time from submission to the first token; None for an empty completion."""
        return self.token_times_s[0] - self.submitted_s if self.token_times_s else None


@dataclass(eq=False)
class Request:
    """A job's state, owned by one scheduler."""

    id: int  # also the order of submission
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    """Of this request's draws; with the position it determines each one."""
    max_new_tokens: int
    """What the parameters ask for, cut to what the context length leaves."""
    stop_token_ids: frozenset[int]
    submitted_s: float
    token_ids: list[int] = field(default_factory=list)
    """Prompt and completion."""
    num_computed_tokens: int = 0
    """Leading tokens whose keys and values the cache holds."""
    block_table: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    token_times_s: list[float] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)

    @property
    def completion_token_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_token_ids) :]

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    def append(self, token_id: int) -> None:
        """Take one sampled token, and finish when it is the last."""
        self.token_ids.append(token_id)
        if token_id in self.stop_token_ids:
            self.finish_reason = "stop"
        elif len(self.token_ids) - len(self.prompt_token_ids) >= self.max_new_tokens:
            self.finish_reason = "length"

    def output(self) -> RequestOutput:
        assert self.finish_reason is not None, "an unfinished request has no output"
        return RequestOutput(
            request_id=self.id,
            prompt_token_ids=self.prompt_token_ids,
            token_ids=self.completion_token_ids,
            text=self.text,
            finish_reason=self.finish_reason,
            submitted_s=self.submitted_s,
            token_times_s=self.token_times_s,
        )
