"""Sizes for which steps are captured as CUDA graphs, and the graph that fits a step, without importing torch."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Literal, NamedTuple

from roseinfer.config import SamplingParams

SamplingKind = Literal["greedy", "top_k", "all"]
"""Sampling that a graph captures: the largest logit, a draw from a small top-k, or a draw from the whole vocabulary."""

MIXED_TOKENS = 512
"""Tokens up to which steps with prompts are captured in sizes of 128 tokens, whatever the model. On an H200, the time
of a 16-bit matrix product grows in steps of 128 rows, and 512 rows are among the fastest per row.
"""

MAX_MIXED_TOKENS = 2048
"""Maximum tokens of a captured step with several prompts, if the model is small."""

LEAST_PROMPT_TOKENS = 128
"""Default of `Policy.least_prompt_tokens`."""

MAX_WHOLE_TOKENS = 4096
"""Maximum tokens of a captured step with one whole prompt, if the model is small."""

_MAX_WORK = 9e12
"""Maximum parameters x tokens of captured steps of more than `MIXED_TOKENS`. With more, the GPU is busy for longer than
the host takes to launch the step's kernels: about 0.7 ms per layer, on the host of an H200 that computes 7e14
operations per second."""

_SHORT_CONTEXT = 8192
"""Maximum context of the decodes that share a graph, if the model's own context is longer. A graph for longer contexts
splits each request over more programs, which is slower for short contexts."""

MAX_PROMPTS = 32
"""Maximum requests whose prompt tokens one captured step computes."""


class GraphKey(NamedTuple):
    """Key of a CUDA graph: the size of the captured step, rounded up, and its kind of sampling."""

    rows: int
    """Maximum requests that decode."""
    kind: SamplingKind
    tokens: int = 0
    """Maximum tokens of a step that also computes prompts, decodes included; 0 for a pure decode."""
    whole: bool = False
    """True for a step that computes the first tokens, or all, of one prompt and nothing else."""
    context: int = 0
    """Maximum context of each decoding request, in tokens; 0 if the model's own is the limit."""

    def __str__(self) -> str:
        if self.tokens == 0:
            return f"decode bs={self.rows} {self.kind}" + (f" context={self.context}" if self.context else "")
        if self.whole:
            return f"prompt tokens={self.tokens} {self.kind}"
        return f"mixed bs={self.rows} tokens={self.tokens} {self.kind}"


class GraphSizes:
    """Captured sizes for batches of up to `max_batch_size` requests."""

    def __init__(self, max_batch_size: int, max_top_k: int, *, num_parameters: int = 0, max_context: int = 0) -> None:
        """`max_top_k` is the largest top-k that graphs of kind "top_k" can draw from.

        `num_parameters` are those of the layers, by which captured steps of more than `MIXED_TOKENS` are limited; 0 for
        no such graphs. `max_context` is the longest context in tokens; 0 if it is short.
        """
        self.batch_sizes = batch_sizes(max_batch_size)
        self.decode_rows = decode_rows(max_batch_size)
        most = int(_MAX_WORK / num_parameters) if num_parameters else 0
        self.token_counts = token_counts(max_batch_size, min(most, MAX_MIXED_TOKENS))
        self.whole_counts = [tokens for tokens in whole_counts() if tokens <= most]
        self._has_long_contexts = max_context > _SHORT_CONTEXT
        self._max_top_k = max_top_k

    def kind(self, params: SamplingParams) -> SamplingKind:
        """Return the cheapest kind of sampling that covers `params`."""
        if params.temperature == 0:
            return "greedy"
        return "top_k" if 0 < params.top_k <= self._max_top_k else "all"

    def decode_key(
        self, num_requests: int, kinds: Iterable[SamplingKind], longest: int = _SHORT_CONTEXT + 1
    ) -> GraphKey | None:
        """Return the key of the graph for a pure decode; None if the batch is too large.

        `longest` is the largest context, in tokens, that a request has at the end of the launch.
        """
        at = bisect_left(self.batch_sizes, num_requests)
        if at == len(self.batch_sizes):
            return None
        context = _SHORT_CONTEXT if self._has_long_contexts and longest <= _SHORT_CONTEXT else 0
        return GraphKey(self.batch_sizes[at], _widest(kinds), context=context)

    def whole_key(self, num_tokens: int, kinds: Iterable[SamplingKind]) -> GraphKey | None:
        """Return the key of the graph for the first `num_tokens` of one prompt alone; None if no such graph fits."""
        at = bisect_left(self.whole_counts, num_tokens)
        fits = num_tokens > MIXED_TOKENS and at < len(self.whole_counts)
        return GraphKey(0, _widest(kinds), self.whole_counts[at], whole=True) if fits else None

    def mixed_key(
        self, num_decodes: int, num_prompts: int, num_tokens: int, kinds: Iterable[SamplingKind]
    ) -> GraphKey | None:
        """Return the key of the graph for a step with prompts; None if the step is too large.

        A chunk counts as a decode if it is one token and the last of its request, as a prompt otherwise.
        `num_tokens` counts both.
        """
        if not 0 < num_prompts <= MAX_PROMPTS or num_decodes > self.decode_rows[-1]:
            return None
        rows = self.decode_rows[bisect_left(self.decode_rows, num_decodes)]
        at = bisect_left(self.token_counts, max(num_tokens, rows))
        return GraphKey(rows, _widest(kinds), self.token_counts[at]) if at < len(self.token_counts) else None


def batch_sizes(largest: int) -> list[int]:
    """Return the batch sizes of captured decodes: dense where batches are small, where padding costs most."""
    sizes = [size for size in (1, 2, 4) if size < largest]
    sizes += range(8, min(largest, 64), 8)
    sizes += range(64, min(largest, 256), 32)
    sizes += range(256, largest, 64)
    return [*sizes, largest]


def decode_rows(largest: int) -> list[int]:
    """Return the numbers of decoding requests in captured mixed steps. Padding rows cost attention almost nothing."""
    return [0, *(size for size in (8, 16, 32) if size < largest), *range(64, largest, 64), largest]


def token_counts(largest_batch: int, most: int = 0) -> list[int]:
    """Return the numbers of tokens of captured mixed steps, up to `most` if a full batch does not need more."""
    counts = [64, *range(128, max(MIXED_TOKENS, largest_batch + LEAST_PROMPT_TOKENS + 127) + 1, 128)]
    return counts + [tokens for tokens in range(MIXED_TOKENS + 256, most + 1, 256) if tokens > counts[-1]]


def whole_counts() -> list[int]:
    """Return the numbers of tokens of captured steps with one whole prompt. Padding is at most an eighth."""
    return [*range(MIXED_TOKENS + 128, 2048, 128), *range(2048, MAX_WHOLE_TOKENS + 1, 256)]


def _widest(kinds: Iterable[SamplingKind]) -> SamplingKind:
    found = set(kinds)
    if "all" in found:
        return "all"
    return "top_k" if "top_k" in found else "greedy"
