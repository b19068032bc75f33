"""Attention during one step, as the layers of a model see it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.kernels.attention.projection import AttentionLayer, Projection


@dataclass(frozen=True)
class StepAttention:
    """The engine's attention backend, with the metadata and positions of one step."""

    backend: AttentionBackend
    metadata: Sequence[AttentionMetadata]
    """Metadata of each group of layers."""
    positions: Tensor
    """Position of each token in its request, [tokens]."""
    rows: Tensor | None = None
    """Indexes of the tokens whose hidden states the step needs, [rows]. None: those of all tokens."""
    last_layer: int = -1
    """Index of the last layer, which computes `rows` only."""

    def attend(self, qkv: Tensor, layer: AttentionLayer) -> Tensor:
        """Apply attention to a fused projection [tokens, (heads + 2 * kv_heads) * head_dim].

        Returns [tokens, heads, head_dim].
        """
        return self.backend.attend(Projection(qkv, self.positions, layer), self.metadata[layer.group])

    @property
    def attends_to_rows(self) -> bool:
        """True if the backend can attend from `rows` alone."""
        return self.backend.has_last(self.metadata[0])

    def attend_rows(self, keys_values: Tensor, stored: AttentionLayer, qkv: Tensor, layer: AttentionLayer) -> Tensor:
        """Store the keys and values of all tokens, and attend from `rows`.

        keys_values [tokens, 2 * kv_heads * head_dim], to be stored as the layer `stored` without queries says; qkv
        [rows, (heads + 2 * kv_heads) * head_dim]. Returns [rows, heads, head_dim].
        """
        projection = Projection(keys_values, self.positions, stored)
        return self.backend.attend_last(projection, Projection(qkv, self.positions, layer), self.metadata[layer.group])
