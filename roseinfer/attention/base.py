"""The interface between models and attention: `prepare` once a step, `forward` once a layer."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from roseinfer.cache.kv_cache import KVCache

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
    slots: Tensor
    """[requests], int64."""


class AttentionBackend(Protocol):
    """Causal attention over the paged KV cache."""

    @property
    def reads_cache(self) -> bool:
        """Whether `attend` works: new keys and values may then be in the cache before."""
        ...

    @property
    def takes_decode_layout(self) -> bool:
        """Whether `forward` and `attend` take a DecodeLayout as metadata, without `prepare`."""
        ...

    def attend(self, layer: int, q: Tensor, metadata: AttentionMetadata) -> Tensor:
        """`forward` without its first half: the new tokens' keys and values are in the cache already."""
        ...

    def prepare(self, layout: StepLayout, cache: KVCache) -> AttentionMetadata:
        """Everything that all layers of one step share."""
        ...

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor, metadata: AttentionMetadata) -> Tensor:
        """Store the new keys and values, and attend: each token to itself and to all before it in its request.

        q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim] -> [tokens, heads, head_dim].
        """
        ...
