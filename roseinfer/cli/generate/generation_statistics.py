"""Token counts and speed of one call of `generate`."""

import math
import time

import msgspec

from roseinfer.workload.answer import Answer


class GenerationStatistics(msgspec.Struct, frozen=True):
    """Token counts and speed of one call of `generate`."""

    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float
    ttft_ms: float | None
    """Time from submission to the first token of any request; None if no token was generated."""
    completion_tokens_per_s: float

    def line(self) -> str:
        """Return the statistics as one line for stderr."""
        first = "" if self.ttft_ms is None else f", first after {self.ttft_ms:.0f} ms"
        return (
            f"[generate] {self.prompt_tokens} prompt + {self.completion_tokens} completion tokens in "
            f"{self.elapsed_s:.2f} s: {self.completion_tokens_per_s:.1f} tokens/s{first}"
        )


class Tally:
    """Running counts over the answers of one call."""

    def __init__(self) -> None:
        self.answers = 0
        self.refused = 0
        self.started_s = time.perf_counter()
        """Start of the work that is counted, by `time.perf_counter`."""
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._first_s = math.inf
        self._last_s: float | None = None

    def add(self, answer: Answer) -> None:
        """Count a complete answer."""
        firsts = [output.ttft_s for output in answer.outputs if output.ttft_s is not None]
        self.add_counts(
            answers=1,
            refused=answer.error is not None,
            prompt_tokens=len(answer.outputs[0].prompt_token_ids) if answer.outputs else 0,
            completion_tokens=sum(len(output.token_ids) for output in answer.outputs),
            ttft_s=min(firsts, default=None),
        )

    def add_counts(
        self, *, answers: int, refused: int, prompt_tokens: int, completion_tokens: int, ttft_s: float | None
    ) -> None:
        """Add the counts of complete answers. `ttft_s` is the shortest time to a first token among them."""
        self.answers += answers
        self.refused += refused
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
        self._first_s = min(self._first_s, math.inf if ttft_s is None else ttft_s)
        self._last_s = time.perf_counter()

    def statistics(self) -> GenerationStatistics:
        """Return the statistics up to the last answer."""
        elapsed_s = (self._last_s or time.perf_counter()) - self.started_s
        return GenerationStatistics(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            elapsed_s=elapsed_s,
            ttft_ms=None if self._first_s == math.inf else self._first_s * 1e3,
            completion_tokens_per_s=self._completion_tokens / elapsed_s,
        )
