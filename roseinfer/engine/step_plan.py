"""A decided step: which requests it computes, how many tokens of each, and the limits that the decision obeys."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from roseinfer.engine.graph_sizes import LEAST_PROMPT_TOKENS, GraphKey
from roseinfer.engine.request import Request

Phase = Literal["prefill", "decode", "mixed"]

ITL_DECODE_STEPS = 8
"""Default bound of the time of a step with prompts and decodes, in decode steps of as many requests as decode in it.

Prompts then get most of the time, so that they hardly wait longer than without decodes beside them.
"""


@dataclass(frozen=True)
class Policy:
    """Limits and preferences by which a mode forms its batches."""

    max_batch_size: int
    """Maximum requests per step."""
    max_batch_tokens: int
    """Maximum tokens per step; in a launch of several decode steps, per decode step."""
    max_mixed_tokens: int
    """Maximum tokens of a step with prompts and decodes. With `bounds_itl`, only while step times are not known."""
    least_prompt_tokens: int = LEAST_PROMPT_TOKENS
    """Prompt tokens that a step may compute even if its decodes alone reach `max_mixed_tokens`."""
    bounds_itl: bool = False
    """True: limit the prompts of steps that also decode by the wait that they add to the decoding requests."""
    max_itl_ms: float | None = None
    """Bound of that wait, which then also limits the decode steps of a launch. None: `ITL_DECODE_STEPS` decode steps,
    as measured, for the wait alone."""
    spreads_prompts: bool = False
    """True: limit prompts to `max_mixed_tokens` per step from the start, if the running completions last long enough to
    compute all prompts that way, and hardly longer than without. False: limit prompts only in steps that also decode.
    """
    longest_first: bool = False
    """True: start the longest completions first, so that none runs alone at the end. False: start in arrival order."""
    full_prompt_tokens: int = 4096
    """Prompt tokens that keep a device busy: beside so many, no prompt is cut to fill up the step, if all of it fits
    into the next one. A longer chunk that does not end its prompt is a multiple of a quarter of this. On an H100,
    matrix products of 4,096 rows reach 96 % of the rate of those of 16,384.
    """
    max_decode_steps: int = 1
    """Maximum tokens per request that one launch decodes, provided that no request can end inside the launch."""


class Chunk(msgspec.Struct, frozen=True, gc=False):  # one per request and step: cheap to construct
    """The next `num_tokens` tokens of one request, whose first `start` tokens the cache holds."""

    request: Request
    start: int
    num_tokens: int
    samples: bool
    """True if the chunk ends with the request's last token, so that the next token can be drawn."""
    is_decode: bool
    """True if the chunk computes the newest token of the completion, and with several decode steps also the tokens
    that the launch draws after it."""

    @property
    def stop(self) -> int:
        """Position after the chunk's last token."""
        return self.start + self.num_tokens


class Admission(msgspec.Struct, frozen=True, gc=False):
    """A waiting request that starts, with the leading tokens that other requests have computed."""

    request: Request
    shared: tuple[int, ...] = ()
    """Block table of full blocks that the request shares with others. Their contents no longer change."""
    copied: tuple[int, ...] = ()
    """Blocks, one per group of layers, that another request still writes to. Their first tokens are copied to blocks of
    this request."""
    num_tokens: int = 0
    """Tokens in the shared and copied blocks."""


class StepPlan(msgspec.Struct, frozen=True):
    """One step, decided but not yet begun."""

    chunks: tuple[Chunk, ...]
    admitted: tuple[Admission, ...]
    preempted: tuple[Request, ...]
    decode_steps: int = 1
    """Tokens that each request of a pure decode draws, one after the other, in one launch."""
    draws_plainly: bool = True
    """True if every request draws from the model's unchanged logits, and none asks for log-probabilities."""
    graph: GraphKey | None = None
    """CUDA graph that fits the step; None for a step that no graph can run."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def num_context_tokens(self) -> int:
        """Tokens whose keys and values the step's attention reads, the new tokens included."""
        if self.decode_steps > 1:
            return sum(sum(range(chunk.start + 1, chunk.stop + 1)) for chunk in self.chunks)
        return sum(chunk.stop for chunk in self.chunks)

    @property
    def phase(self) -> Phase:
        decodes = sum(chunk.is_decode for chunk in self.chunks)
        if decodes == len(self.chunks):
            return "decode"
        return "mixed" if decodes else "prefill"

    @property
    def label(self) -> str:
        """Label of the step's span in traces, such as "decode bs=16 tokens=16"."""
        return f"{self.phase} bs={len(self.chunks)} tokens={self.num_tokens}"
