"""One generation job, what a step tells of it, and what it ends as. No torch in here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from roseinfer.config import SamplingParams

FinishReason = Literal["stop", "length", "abort"]

PENDING = -1
"""The place of a token that is being drawn."""


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Of one token of a completion, under the logits that the model gave, before any change to them."""

    logprob: float
    """Natural logarithm of the drawn token's probability."""
    top: list[tuple[int, float]]
    """The likeliest tokens and theirs, the likeliest first."""


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One new token of one completion; `text` may be empty while a character is incomplete."""

    request_id: int
    sample_index: int
    token_id: int
    text: str
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A finished completion. Times are seconds on `time.perf_counter`'s clock."""

    request_id: int
    sample_index: int
    """Which of the prompt's `n` completions this is."""
    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    submitted_s: float
    token_times_s: list[float]
    """When each completion token was there."""
    logprobs: list[TokenLogprobs] | None
    """One a completion token; None where the parameters do not ask for them."""

    @property
    def ttft_s(self) -> float | None:
        """Time from submission to the first token; None for an empty completion."""
        return self.token_times_s[0] - self.submitted_s if self.token_times_s else None


@dataclass(eq=False)
class Request:
    """A job's state, owned by one scheduler."""

    id: int  # also the order of submission
    sample_index: int
    """Which of the prompt's completions this is."""
    parent: "Request | None"
    """The first completion of the same prompt, whose blocks this one shares; None for that one itself."""
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
    block_keys: list[bytes] = field(default_factory=list)
    """Prefix-cache keys of the leading full blocks, as far as they were needed."""
    num_pending: int = 0
    """Tokens at the end of `token_ids` that a launch is drawing: placeholders until it is read."""
    finish_reason: FinishReason | None = None
    token_times_s: list[float] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One a token, where the parameters ask for them."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)
        # What penalties look at is kept only where there is one.
        self.prompt_set = frozenset(self.prompt_token_ids) if self.params.repetition_penalty != 1 else frozenset()
        self.counts: Counter[int] = Counter()
        # Asked for in every step.
        params = self.params
        self._counts_tokens = params.has_penalty
        self._is_plain = not (params.logit_bias or params.has_penalty) and params.logprobs is None
        self._bans = params.min_new_tokens > 0

    @property
    def draws_plainly(self) -> bool:
        """Whether a token is drawn from the model's own logits, and nothing else of them is asked for."""
        return self._is_plain and not (self._bans and self.banned_token_ids)

    @property
    def ends_by_length_only(self) -> bool:
        """Whether nothing that is drawn can end the completion early."""
        return self._is_plain and not self.stop_token_ids and not self.params.stop

    @property
    def banned_token_ids(self) -> frozenset[int]:
        """Tokens that may not come next."""
        return self.stop_token_ids if self.num_new_tokens < self.params.min_new_tokens else frozenset()

    @property
    def num_new_tokens(self) -> int:
        """Tokens of the completion so far, pending ones included."""
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def completion_token_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_token_ids) :]

    def expect(self, count: int) -> None:
        """Make room for tokens that are being drawn."""
        self.token_ids += [PENDING] * count
        self.num_pending += count

    def take(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Put drawn tokens in the place of the first pending ones, and finish with the last; those that count."""
        stops = not self.stop_token_ids.isdisjoint(token_ids)
        if stops:
            token_ids = token_ids[: 1 + next(i for i, t in enumerate(token_ids) if t in self.stop_token_ids)]
        first = len(self.token_ids) - self.num_pending
        self.token_ids[first : first + len(token_ids)] = token_ids
        self.num_pending -= len(token_ids)
        if self._counts_tokens:
            self.counts.update(token_ids)
        if stops:
            self.finish("stop")
        elif self.num_new_tokens - self.num_pending >= self.max_new_tokens:
            self.finish("length")
        return token_ids

    def finish(self, reason: FinishReason) -> None:
        """End here, whatever is being drawn."""
        self.finish_reason = reason
        del self.token_ids[len(self.token_ids) - self.num_pending :]
        self.num_pending = 0

    def output(self) -> RequestOutput:
        assert self.finish_reason is not None, "an unfinished request has no output"
        return RequestOutput(
            request_id=self.id,
            sample_index=self.sample_index,
            prompt_token_ids=self.prompt_token_ids,
            token_ids=self.completion_token_ids,
            text=self.text,
            finish_reason=self.finish_reason,
            submitted_s=self.submitted_s,
            token_times_s=self.token_times_s,
            logprobs=None if self.params.logprobs is None else self.logprobs,
        )
