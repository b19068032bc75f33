"""What all layers of a model share during one step."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata, Projection
from roseinfer.kernels.cpu import native_kernels
from roseinfer.models.norm_layers import RMSNorm
from roseinfer.models.rope import RotaryEmbedding


@dataclass(frozen=True)
class StepTensors:
    """Packed inputs, and how to attend."""

    token_ids: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    rope: RotaryEmbedding | None
    """None for a model with learned positions."""
    attention: AttentionBackend
    metadata: AttentionMetadata

    @cached_property
    def rotation(self) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of the step's positions, [tokens, 1, head_dim] each."""
        assert self.rope is not None
        return self.rope.rotation(self.positions)

    @cached_property
    def takes_projection(self) -> bool:
        """Whether the backend takes a layer's fused projection as it is."""
        return self.attention.takes_projection and (
            self.positions.is_cuda or native_kernels.runs_native(self.metadata.cache.data)
        )

    def append_and_attend(
        self,
        layer: int,
        qkv: Tensor,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        q_norm: RMSNorm | None = None,
        k_norm: RMSNorm | None = None,
    ) -> Tensor:
        """From the fused projection [tokens, (heads + 2 kv_heads) x head_dim] to attention's result."""
        projection = Projection(
            qkv,
            None if self.rope is None else self.rope.table,
            self.positions,
            num_heads,
            num_kv_heads,
            head_dim,
            None if q_norm is None else q_norm.weight,
            None if k_norm is None else k_norm.weight,
            0.0 if q_norm is None else q_norm.eps,
        )
        return self.attention.append_and_attend(layer, projection, self.metadata)
