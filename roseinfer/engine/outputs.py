"""Results that the engine returns: token events while a request runs, outputs when it ends."""

from typing import Literal

import msgspec

from roseinfer.notebook import notebook_html, short_repr

FinishReason = Literal["stop", "length", "abort"]


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of one completion token, from the model's logits before penalties, biases and bans."""

    logprob: float
    """Natural logarithm of the drawn token's probability."""
    top: list[tuple[int, float]]
    """Most likely tokens as (token id, log-probability), in descending order."""


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One new token of one completion. `text` may be empty while a multi-byte character is incomplete."""

    request_id: int
    sample_index: int
    token_id: int
    text: str
    finish_reason: FinishReason | None
    logprobs: TokenLogprobs | None = None


class RequestOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A finished completion. Times are seconds on the clock of `time.perf_counter`."""

    request_id: int
    sample_index: int
    """Index of this completion among the `n` completions of its prompt."""
    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: FinishReason
    submitted_s: float
    token_times_s: list[float]
    """Time at which the host read each completion token."""
    logprobs: list[TokenLogprobs] | None
    """Log-probabilities per completion token; None if the request did not ask for them."""

    def __repr__(self) -> str:
        """Return one line with the number of tokens and the start of the text."""
        counts = f"{len(self.prompt_token_ids)} + {len(self.token_ids)} tokens"
        sample = f".{self.sample_index}" if self.sample_index else ""
        return short_repr("RequestOutput", f"{self.request_id}{sample}, {counts}, {self.finish_reason}", self.text)

    def _repr_html_(self) -> str:
        return notebook_html(self)

    @property
    def ttft_s(self) -> float | None:
        """Time from submission to the first token, in seconds; None for an empty completion."""
        return self.token_times_s[0] - self.submitted_s if self.token_times_s else None
