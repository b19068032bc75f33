"""The interface between models and attention: `prepare` once a step, `forward` once a layer."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.paged_decode import newest_slots
from roseinfer.kernels.attention.rope_append import rope_append
from roseinfer.spans import span

AttentionMetadata: TypeAlias = Any
"""What a backend's `prepare` made; only that backend looks inside."""


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


@dataclass(frozen=True)
class Projection:
    """A layer's fused projection of a step's tokens, and what makes queries and keys of it."""

    qkv: Tensor
    """[tokens, (num_heads + 2 * num_kv_heads) * head_dim]"""
    table: Tensor | None
    """Cosines, then sines of each position, [max_positions, head_dim]; None for learned positions."""
    positions: Tensor
    """[tokens]"""
    num_heads: int
    num_kv_heads: int
    head_dim: int
    q_norm: Tensor | None
    """Weights of an RMS norm of each head, [head_dim]; the keys' likewise."""
    k_norm: Tensor | None
    eps: float

    def append(self, layer: int, cache: KVCache, slots: Tensor) -> Tensor:
        """Store keys and values at slots [tokens]; the queries, [tokens, num_heads, head_dim]."""
        with span("roseinfer.kv.append"):
            keys, values = cache.data[layer]
            shape = (self.num_heads, self.num_kv_heads, self.head_dim)
            norms = (self.q_norm, self.k_norm, self.eps)
            return rope_append(self.qkv, self.table, self.positions, slots, keys, values, *shape, *norms)


class AttentionBackend(Protocol):
    """Causal attention over the paged KV cache."""

    @property
    def takes_projection(self) -> bool:
        """Whether `append_and_attend` works."""
        ...

    @property
    def takes_layouts(self) -> bool:
        """Whether `forward` and `append_and_attend` take a DecodeLayout or a MixedLayout, without `prepare`."""
        ...

    def append_and_attend(self, layer: int, projection: Projection, metadata: AttentionMetadata) -> Tensor:
        """From a fused projection to what `forward` gives, by one kernel or two."""
        ...

    def prepare(self, layout: StepLayout, cache: KVCache) -> AttentionMetadata:
        """Everything that all layers of one step share."""
        ...

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, metadata: AttentionMetadata) -> Tensor:
        """Store the new keys and values, and attend: each token to itself and to all before it in its request.

        q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> [tokens, heads, head_dim].
        """
        ...
