"""Self-attention of decoder layers. It runs after its layer's norm and adds to the residual stream."""

from dataclasses import replace
from functools import cached_property

import msgspec
import torch
from torch import Tensor, nn

from roseinfer.cache.layer_groups import LayerPlace
from roseinfer.distributed.rank_group import RankGroup
from roseinfer.kernels.attention.attention_spec import AttentionSpec
from roseinfer.kernels.attention.projection import AttentionLayer
from roseinfer.models.linear import Linear
from roseinfer.models.norm_layers import LayerNorm, RMSNorm
from roseinfer.models.parameter import parameter
from roseinfer.models.rope import RotaryEmbedding
from roseinfer.models.step_attention import StepAttention
from roseinfer.models.weight_map import WeightMap, WeightSlot, compose


class Attention(nn.Module):
    """Fused query, key and value projection, norms of query and key heads, attention, output projection."""

    def __init__(
        self,
        index: int,
        place: LayerPlace,
        spec: AttentionSpec,
        qkv: Linear,
        output: Linear,
        *,
        rope: RotaryEmbedding | None = None,
        q_norm: RMSNorm | None = None,
        k_norm: RMSNorm | None = None,
        joint: bool = False,
    ) -> None:
        """`rope` holds the rotations that the spec describes; layers with the same rope share the module.

        With `joint`, q_norm and k_norm normalize all heads of a token together, else each head by itself.
        """
        super().__init__()
        self.index = index
        self.spec = spec
        self.place = place
        self.qkv = qkv
        self.output = output
        self.rope = rope
        self.q_norm = q_norm
        self.k_norm = k_norm
        self.joint = joint
        self.sinks = parameter(spec.num_heads) if spec.sinks else None
        self._joint_ranks: RankGroup | None = None
        self._key_copies = 1

    def divide_joint_norms(self, ranks: RankGroup, key_copies: int) -> None:
        """Normalize all heads of all ranks together, if norms are joint. `key_copies` ranks hold the same keys."""
        self._joint_ranks, self._key_copies = ranks, key_copies

    def forward(self, x: Tensor, step: StepAttention) -> Tensor:
        """Apply attention to x, [tokens, hidden_size]."""
        return self.output.linear(self._attend(self.qkv.linear(x), step))

    def after_norm(
        self, norm: LayerNorm | RMSNorm, hidden: Tensor, residual: Tensor | None, step: StepAttention
    ) -> tuple[Tensor, Tensor | None]:
        """Apply attention to norm(hidden + residual). Takes and returns both tensors as `GatedMLP.after_norm` does.

        In the step's last layer, returns the step's `rows` only.
        """
        if step.rows is not None and self.index == step.last_layer:
            return self._rows_after_norm(norm, hidden, residual, step, step.rows)
        qkv, stream = self.qkv.after_norm(norm, hidden, residual)
        return self.output.onto(self._attend(qkv, step), stream)

    def _attend(self, qkv: Tensor, step: StepAttention) -> Tensor:
        """Return the heads' results, [tokens, heads * head_dim]."""
        if self.joint and self.q_norm is not None and self.k_norm is not None:
            spec = self.spec
            sizes = [count * spec.head_dim for count in (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)]
            q, k, v = torch.split(qkv, sizes, dim=1)
            q, k = self._jointly_normalized(q, k, self.q_norm, self.k_norm)
            qkv = torch.cat((q, k, v), dim=1)
        return step.attend(qkv, self.layer).flatten(1)

    def _jointly_normalized(self, q: Tensor, k: Tensor, q_norm: RMSNorm, k_norm: RMSNorm) -> tuple[Tensor, Tensor]:
        """Normalize the queries, and the keys, of all heads of a token together. Ranks add their sums of squares."""
        ranks = self._joint_ranks
        if ranks is None:
            return q_norm(q), k_norm(k)
        wide = torch.promote_types(q.dtype, torch.float32)
        q_wide, k_wide = q.to(wide), k.to(wide)
        sums = torch.stack((q_wide.square().sum(1), k_wide.square().sum(1) / self._key_copies))
        q_mean, k_mean = ranks.all_reduce(sums)
        q_mean, k_mean = q_mean / (q.shape[1] * ranks.size), k_mean / (k.shape[1] * ranks.size // self._key_copies)
        q_wide = q_wide * torch.rsqrt(q_mean + q_norm.eps)[:, None] * q_norm.weight
        k_wide = k_wide * torch.rsqrt(k_mean + k_norm.eps)[:, None] * k_norm.weight
        return q_wide.to(q.dtype), k_wide.to(k.dtype)

    def _rows_after_norm(
        self, norm: LayerNorm | RMSNorm, hidden: Tensor, residual: Tensor | None, step: StepAttention, rows: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Compute `after_norm` for some rows. Later steps need the keys and values of all tokens, and nothing else."""
        keys_values = self.qkv.tail(2 * self.spec.num_kv_heads * self.spec.head_dim)
        if keys_values is None or self.joint or not step.attends_to_rows:
            qkv, stream = self.qkv.after_norm(norm, hidden, residual)
            return self.output.onto(self._attend(qkv, step)[rows], stream[rows])
        normed, stream = norm.after(hidden, residual)
        attended = step.attend_rows(keys_values(normed), self._stored_layer, self.qkv.linear(normed[rows]), self.layer)
        return self.output.onto(attended.flatten(1), stream[rows])

    @cached_property
    def layer(self) -> AttentionLayer:
        """Weights and settings for attention backends. Created on first use: the model must not move afterwards."""
        return AttentionLayer(
            index=self.place.slot,
            group=self.place.group,
            spec=self.spec,
            table=None if self.rope is None else self.rope.table,
            q_norm=None if self.q_norm is None or self.joint else self.q_norm.weight,
            k_norm=None if self.k_norm is None or self.joint else self.k_norm.weight,
            eps=0.0 if self.q_norm is None else self.q_norm.eps,
            sinks=None if self.sinks is None else self.sinks.to(torch.promote_types(self.sinks.dtype, torch.float32)),
        )

    @cached_property
    def _stored_layer(self) -> AttentionLayer:
        """`layer` without its queries."""
        return replace(self.layer, spec=msgspec.structs.replace(self.spec, num_heads=0), q_norm=None)

    def weight_map(self) -> WeightMap:
        slots = compose({"": self.qkv, "q_norm": self.q_norm, "k_norm": self.k_norm, "o_proj": self.output})
        return slots if self.sinks is None else slots | {"sinks": WeightSlot(self, "sinks")}
