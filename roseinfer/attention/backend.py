"""The interface between models and attention: `prepare` once per step, `attend` once per layer."""

from typing import Any, ClassVar, Protocol, Self, TypeAlias

from torch import Tensor

from roseinfer.attention.step_layouts import StepLayout
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.kernels.attention.projection import Projection

AttentionMetadata: TypeAlias = Any
"""Result of a backend's `prepare`. Models pass it on to `attend` of the same backend and never look inside."""


class AttentionBackend(Protocol):
    """Causal attention over the paged KV cache.

    A backend is chosen once per engine, for its cache. Heads, window, scale and rotary positions are properties of a
    layer: they arrive with each projection.
    """

    capturable: ClassVar[bool]
    """True if `attend` also accepts a DecodeLayout or MixedLayout as metadata and never reads from the device: a CUDA
    graph can then capture a step."""

    @classmethod
    def for_cache(cls, cache: KVCache) -> Self | None:
        """Return the backend for this cache, or None if the cache's device, dtype or shape does not suit it."""
        ...

    def prepare(self, layout: StepLayout, cache: KVCache) -> AttentionMetadata:
        """Compute the metadata that all layers of a step share."""
        ...

    def attend(self, projection: Projection, metadata: AttentionMetadata) -> Tensor:
        """Store the new keys and values, and attend: each token to itself and to the tokens before it in its request.

        Returns [tokens, num_heads, head_dim].
        """
        ...

    def has_last(self, metadata: AttentionMetadata) -> bool:
        """True if `attend_last` can run for a step with this metadata."""
        ...

    def attend_last(self, stored: Projection, last: Projection, metadata: AttentionMetadata) -> Tensor:
        """Store keys and values of all tokens, and attend from the last tokens of the requests in `StepLayout.last`.

        `stored` [tokens, 2 * kv_heads * head_dim] has no queries, and a spec without query heads. `last` has one row
        per last token; its positions are not read. Returns [last tokens, num_heads, head_dim].
        """
        ...


class AttendsFromAll:
    """Base of backends that always attend from all tokens of a step."""

    def has_last(self, _metadata: AttentionMetadata) -> bool:
        return False

    def attend_last(self, stored: Projection, last: Projection, metadata: AttentionMetadata) -> Tensor:
        raise NotImplementedError
