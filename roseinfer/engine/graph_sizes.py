"""Sizes for which steps are captured as CUDA graphs, and the graph that fits a step, without importing torch."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Literal, NamedTuple

from roseinfer.config import SamplingParams

SamplingKind = Literal["greedy", "top_k", "all"]
"""Sampling that a graph captures: the largest logit, a draw from a small top-k, or a draw from the whole vocabulary."""

MIXED_TOKENS = 512
"""Maximum tokens of a captured step with prompts. Longer steps run on the GPU for longer than the host takes to launch
their kernels. On an H200, the time of a 16-bit matrix product grows in steps of 128 rows, and 512 rows are among the
fastest per row.
"""

LEAST_PROMPT_TOKENS = 128
"""Default of `Policy.least_prompt_tokens`."""

MAX_PROMPTS = 32
"""Maximum requests whose prompt tokens one captured step computes."""


class GraphKey(NamedTuple):
    """Key of a CUDA graph: the size of the captured step, rounded up, and its kind of sampling."""

    rows: int
    """Maximum requests that decode."""
    kind: SamplingKind
    tokens: int = 0
    """Maximum tokens of a step that also computes prompts, decodes included; 0 for a pure decode."""

    def __str__(self) -> str:
        if self.tokens == 0:
            return f"decode bs={self.rows} {self.kind}"
        return f"mixed bs={self.rows} tokens={self.tokens} {self.kind}"


class GraphSizes:
    """Captured sizes for batches of up to `max_batch_size` requests."""

    def __init__(self, max_batch_size: int, max_top_k: int) -> None:
        """`max_top_k` is the largest top-k that graphs of kind "top_k" can draw from."""
        self.batch_sizes = batch_sizes(max_batch_size)
        self.decode_rows = decode_rows(max_batch_size)
        self.token_counts = token_counts(max_batch_size)
        self._max_top_k = max_top_k

    def kind(self, params: SamplingParams) -> SamplingKind:
        """Return the cheapest kind of sampling that covers `params`."""
        if params.temperature == 0:
            return "greedy"
        return "top_k" if 0 < params.top_k <= self._max_top_k else "all"

    def decode_key(self, num_requests: int, kinds: Iterable[SamplingKind]) -> GraphKey | None:
        """Return the key of the graph for a pure decode; None if the batch is too large."""
        at = bisect_left(self.batch_sizes, num_requests)
        return GraphKey(self.batch_sizes[at], _widest(kinds)) if at < len(self.batch_sizes) else None

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
    sizes += range(64, largest, 32)
    return [*sizes, largest]


def decode_rows(largest: int) -> list[int]:
    """Return the numbers of decoding requests in captured mixed steps. Padding rows cost attention almost nothing."""
    return [0, *(size for size in (8, 16, 32) if size < largest), *range(64, largest, 64), largest]


def token_counts(largest_batch: int) -> list[int]:
    """Return the numbers of tokens of captured mixed steps."""
    return [64, *range(128, max(MIXED_TOKENS, largest_batch + LEAST_PROMPT_TOKENS + 127) + 1, 128)]


def _widest(kinds: Iterable[SamplingKind]) -> SamplingKind:
    found = set(kinds)
    if "all" in found:
        return "all"
    return "top_k" if "top_k" in found else "greedy"
