"""The fused query, key and value projection of a layer: the input of attention backends and their kernels."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from roseinfer.kernels.attention.attention_spec import AttentionSpec, Scoring


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """Weights and settings of a layer's attention, which are the same in every step."""

    index: int
    """Position of the layer's keys and values in the KV cache, among the layers of its group."""
    spec: AttentionSpec
    table: Tensor | None = None
    """Cosines, then sines per position: [max_positions, head_dim]. None: queries and keys are not rotated."""
    q_norm: Tensor | None = None
    """Weight of an RMS norm of each query head before its rotation, [head_dim]."""
    k_norm: Tensor | None = None
    """Weight of an RMS norm of each key head before its rotation, [head_dim]."""
    eps: float = 1e-6
    """Epsilon of the norms of query and key heads."""
    sinks: Tensor | None = None
    """Score of each head's sink, as in `Scoring`."""
    group: int = 0
    """Group of layers whose block tables the layer reads."""

    @cached_property
    def scoring(self) -> Scoring:
        """Scale, window, bound and sinks of the scores, as kernels take them."""
        return self.spec.scoring._replace(sinks=self.sinks)


class Projection(NamedTuple):
    """Queries, keys and values of a step's tokens: the output of one matrix product."""

    qkv: Tensor
    """Query heads, key heads, value heads of each token: [tokens, (num_heads + 2 * num_kv_heads) * head_dim]."""
    positions: Tensor
    """Position of each token in its request: [tokens], int32 or int64."""
    layer: AttentionLayer
