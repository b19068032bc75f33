"""The interface between models and attention: `prepare` once a step, `forward` once a layer."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.rope_append import rope_append
from roseinfer.spans import span

AttentionMetadata: TypeAlias = Any
"""What a backend's `prepare` made; only that backend looks inside."""


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
