"""Attention during one step, as the layers of a model see it."""

from dataclasses import dataclass

from torch import Tensor

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.kernels.attention.projection import AttentionLayer, Projection


@dataclass(frozen=True)
class StepAttention:
    """The engine's attention backend, with the metadata and positions of one step."""

    backend: AttentionBackend
    metadata: AttentionMetadata
    positions: Tensor
    """Position of each token in its request, [tokens]."""

    def attend(self, qkv: Tensor, layer: AttentionLayer) -> Tensor:
        """Apply attention to a fused projection [tokens, (heads + 2 * kv_heads) * head_dim].

        Returns [tokens, heads, head_dim].
        """
        return self.backend.attend(Projection(qkv, self.positions, layer), self.metadata)
