"""The state of one generation job, without importing torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from roseinfer.cache.prefix_index import BlockContent
from roseinfer.config import SamplingParams
from roseinfer.engine.graph_sizes import SamplingKind
from roseinfer.engine.outputs import FinishReason, RequestOutput, TokenLogprobs
from roseinfer.engine.step_batch import PENDING


@dataclass(eq=False)
class Request:
    """One completion of one prompt. Owned by one scheduler and compared by identity."""

    id: int  # also the order of submission
    sample_index: int
    """Index of this completion among the `n` completions of its prompt."""
    parent: "Request | None"
    """First completion of the same prompt, whose blocks this one shares; None for the first completion itself."""
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    """Random seed. With a token's position it determines the draw of that token."""
    max_new_tokens: int
    """Maximum completion tokens: `params.max_new_tokens`, limited by the context length."""
    stop_token_ids: frozenset[int]
    submitted_s: float
    token_ids: list[int] = field(default_factory=list)
    """Token ids of prompt and completion; `PENDING` for tokens that a launch is drawing."""
    num_computed_tokens: int = 0
    """Leading tokens whose keys and values are in the cache."""
    row: int = -1
    """Row of the runner that holds the running request's state; -1 before the first step."""
    block_table: list[int] = field(default_factory=list)
    """Blocks of all groups of layers, as `roseinfer/cache/group_tables.py` describes."""
    held_query: int = 0
    """Position of a query: the request holds all blocks that queries can see from there on."""
    block_contents: list[BlockContent] = field(default_factory=list)
    """Contents of the leading full blocks, by which the prefix cache finds them, as far as they were needed."""
    num_pending: int = 0
    """Tokens at the end of `token_ids` that are `PENDING`."""
    finish_reason: FinishReason | None = None
    token_times_s: list[float] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """Log-probabilities per completion token, if the parameters ask for them."""
    sampling_kind: SamplingKind = "greedy"
    """Kind of sampling that a CUDA graph needs for this request. Set by planners of engines with CUDA graphs."""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)
        # Cached here because the planner asks in every step.
        params = self.params
        self._is_plain = not (params.logit_bias or params.has_penalty) and params.logprobs is None
        self._bans = params.min_new_tokens > 0

    @property
    def draws_plainly(self) -> bool:
        """True if the next token is drawn from the model's unchanged logits, without reporting log-probabilities."""
        return self._is_plain and not (self._bans and self._bans_now)

    @property
    def ends_by_length_only(self) -> bool:
        """True if no token can end the completion before its maximum length."""
        return self._is_plain and not self.stop_token_ids and not self.params.stop

    @property
    def _bans_now(self) -> bool:
        """True if the next token must not be a stop token."""
        return bool(self.stop_token_ids) and self.num_new_tokens < self.params.min_new_tokens

    @property
    def num_new_tokens(self) -> int:
        """Completion tokens so far, pending tokens included."""
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def completion_token_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_token_ids) :]

    def expect(self, count: int) -> None:
        """Append `count` pending tokens, which a launch is drawing."""
        self.token_ids += [PENDING] * count
        self.num_pending += count

    def take(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Replace the first pending tokens by drawn tokens, and finish if the last one ends the completion.

        Returns the tokens that belong to the completion: none after a stop token.
        """
        stops = not self.stop_token_ids.isdisjoint(token_ids)
        if stops:
            token_ids = token_ids[: 1 + next(i for i, t in enumerate(token_ids) if t in self.stop_token_ids)]
        first = len(self.token_ids) - self.num_pending
        self.token_ids[first : first + len(token_ids)] = token_ids
        self.num_pending -= len(token_ids)
        if stops:
            self.finish("stop")
        elif self.num_new_tokens - self.num_pending >= self.max_new_tokens:
            self.finish("length")
        return token_ids

    def finish(self, reason: FinishReason) -> None:
        """End the completion and drop its pending tokens."""
        self.finish_reason = reason
        del self.token_ids[len(self.token_ids) - self.num_pending :]
        self.num_pending = 0

    def output(self) -> RequestOutput:
        """Return the finished completion."""
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
