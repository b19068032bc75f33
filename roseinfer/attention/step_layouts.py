"""Layouts of a step: where its tokens are in requests and in the KV cache."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.append_and_attend import newest_slots


@dataclass(frozen=True)
class StepLayout:
    """How a step's packed tokens lie in requests and in the KV cache."""

    query_lens: list[int]
    """New tokens of each request, in packing order."""
    context_lens: list[int]
    """Tokens of each request that the cache already holds."""
    block_tables: list[list[int]]
    """Blocks of each request, new tokens included."""
    slots: Tensor
    """Where each new token's keys and values go: block x block_size + offset. [tokens], int64, on the device."""


@dataclass(frozen=True)
class DecodeLayout:
    """A step of one new token a request, all of it on the device: what a CUDA graph can replay."""

    cache: KVCache
    block_tables: Tensor
    """[requests, most blocks], int32; behind a request's last block anything that is a block."""
    context_lens: Tensor
    """[requests], int32, the new token included."""
    order: Tensor | None = None
    """[requests], int32: requests by falling length, in which kernels may take them."""
    known_slots: Tensor | None = None
    """Slots that are computed already."""

    @cached_property
    def slots(self) -> Tensor:
        """Where each new token goes, [requests], int64; made from the rest when first asked for, unless known.

        Made so late, they are not for a kernel that starts before its predecessor is done.
        """
        if self.known_slots is not None:
            return self.known_slots
        return newest_slots(self.block_tables, self.context_lens, self.cache.block_size)


@dataclass(frozen=True)
class PromptLayout:
    """Prompts and chunks of prompts, whose tokens follow each other, all of it on the device."""

    block_tables: Tensor
    """[requests, most blocks], int32."""
    context_lens: Tensor
    """[requests], int32, the new tokens included."""
    query_starts: Tensor
    """[requests + 1], int32, where each request's tokens begin and the last one's end, among all of the step."""
    max_query_len: int
    """About the most new tokens of a request."""


@dataclass(frozen=True)
class MixedLayout:
    """A step with prompts, all of it on the device: one new token each of some requests, then prompts of others."""

    cache: KVCache
    slots: Tensor
    """Where each new token goes, [tokens], int64."""
    decodes: DecodeLayout | None
    """Of the first tokens. It may have rows of length 0 at its end, which are the prompts' or nobody's."""
    prompts: PromptLayout
