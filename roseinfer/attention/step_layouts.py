"""Layouts of a step: the place of its tokens in requests and in the KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.append_and_attend import newest_slots


@dataclass(frozen=True)
class StepLayout:
    """The layout of a step as the runner states it, request by request."""

    query_lens: list[int]
    """New tokens per request, in packing order."""
    context_lens: list[int]
    """Tokens per request that the cache already holds."""
    block_tables: list[list[int]]
    """Blocks per request, those of new tokens included."""
    slots: Tensor
    """Slot for each new token's keys and values, block x block_size + offset: [tokens], int64, on the device."""
    last: Sequence[int] | None = None
    """Requests after whose last token the step samples, in packing order. None: not known, or of no use."""


@dataclass(frozen=True)
class DecodeLayout:
    """A step with one new token per request, as tensors on the device, so that a CUDA graph can replay the step."""

    cache: KVCache
    block_tables: Tensor
    """Block numbers, [requests, max_blocks], int32. After a request's last block, any valid number."""
    context_lens: Tensor
    """Tokens per request, the new one included: [requests], int32."""
    order: Tensor | None = None
    """Requests by falling length, the order in which kernels may start them: [requests], int32."""
    known_slots: Tensor | None = None
    """Result of `slots` if the host computed it with the step's inputs; None: `slots` computes it."""

    @cached_property
    def slots(self) -> Tensor:
        """Slot for each new token, [requests], int64. Computed from tables and lengths on first use, unless known.

        A kernel with programmatic dependent launch must not read slots that were computed right before it.
        """
        if self.known_slots is not None:
            return self.known_slots
        return newest_slots(self.block_tables, self.context_lens, self.cache.block_size)


@dataclass(frozen=True)
class PromptLayout:
    """Prompts and chunks of prompts, packed one after another, as tensors on the device."""

    block_tables: Tensor
    """Block numbers, [requests, max_blocks], int32."""
    context_lens: Tensor
    """Tokens per request, the new ones included: [requests], int32."""
    query_starts: Tensor
    """First token of each request among the step's tokens, then the end of the last: [requests + 1], int32."""
    max_query_len: int
    """Approximate maximum of new tokens per request, by which kernels choose their tiles."""
    dense: "DensePrompts | None" = None
    """The same tokens in two parts, for layers whose attention runs faster over contiguous keys and values."""


class DenseRun(NamedTuple):
    """Leading tokens of consecutive whole prompts, which one call computes over contiguous keys and values."""

    first: int
    """First token of the first prompt among the step's tokens."""
    prompts: int
    """Number of prompts. If there are several, the run holds all of their tokens."""
    length: int
    """Tokens per prompt."""


@dataclass(frozen=True)
class DensePrompts:
    """A step's prompts as runs of contiguous keys and values, and the rest over the block tables."""

    runs: tuple[DenseRun, ...]
    rest: PromptLayout | None
    """Tokens that are in no run, as requests of their own. Runs appear between them as requests with a context of 0
    tokens, which attention skips. None if the runs hold all tokens of all prompts."""
    pasts: "tuple[DensePast, ...]" = ()
    """Tokens of `rest` that have many tokens before them."""
    first_keys: Tensor | None = None
    """First key per request of `rest` that is not in `pasts`, [requests], int32. None without `pasts`."""


class DensePast(NamedTuple):
    """Consecutive tokens of one request, which attend to the request's first tokens by one call."""

    first: int
    """First of the tokens among the step's tokens."""
    length: int
    """Number of tokens."""
    padded: int
    """Number of tokens that the call computes."""
    keys: int
    """Number of the request's first tokens to attend to."""
    request: int | None
    """Index in the `PromptLayout` of the request, whose cache holds these keys. None: the step computes them right
    before the tokens."""


@dataclass(frozen=True)
class MixedLayout:
    """A step with prompts, as tensors on the device: requests with one new token first, then prompts and chunks."""

    cache: KVCache
    slots: Tensor
    """Slot for each new token, [tokens], int64."""
    decodes: DecodeLayout | None
    """Layout of the decodes, which come first. Its last rows may have length 0; their tokens belong to prompts."""
    prompts: PromptLayout
    last: DecodeLayout | None = None
    """Requests after whose last token the step samples: the last layer computes only these tokens. None: it computes
    all tokens."""
