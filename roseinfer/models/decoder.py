"""The decoder that Llama-style architectures share: RMSNorm, rotary positions, grouped-query attention, gated MLP.

Llama (Touvron et al., 2023), Mistral, Qwen2 and Qwen3 differ only in what `ModelConfig` says: biases, norms of queries
and keys, sliding windows.
"""

from typing import cast

import torch
from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.attention.step_layouts import DecodeLayout
from roseinfer.errors import ModelError
from roseinfer.kernels.cpu import native_library, native_step
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import FusedLinear, Linear
from roseinfer.models.mlp import GatedMLP
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.native_layers import NativeLayers
from roseinfer.models.norm_layers import RMSNorm
from roseinfer.models.rope import RotaryEmbedding, rotate
from roseinfer.models.step_tensors import StepTensors
from roseinfer.models.weight_map import WeightMap, compose


class Decoder(CausalLM):
    """Embedding, layers, norm, head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.rope is None:
            raise ModelError(f"a model of the {config.architecture} architecture needs rotary positions")
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.rope = RotaryEmbedding(config.rope, config.head_dim, config.max_position_embeddings)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self._native_layers: NativeLayers | None = None
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend, metadata: AttentionMetadata
    ) -> Tensor:
        hidden, residual = self.embed(token_ids), None
        layers = self._native(metadata) if len(token_ids) <= native_step.MAX_ROWS else None
        if layers is not None:
            return self.norm.after(layers.run(hidden, positions, metadata), None)[0]
        step = StepTensors(token_ids, positions, self.rope, attention, metadata)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, step)
        return self.norm.after(hidden, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.embed.logits(hidden) if self.head is None else self.head.linear(hidden)

    def _native(self, metadata: AttentionMetadata) -> NativeLayers | None:
        """The layers as one compiled call; None for a step or a model that it cannot run."""
        if not native_library.is_loaded() or not isinstance(metadata, DecodeLayout):
            return None
        if self._native_layers is None or self._native_layers.cache is not metadata.cache:
            if not NativeLayers.fits(self.layers, self.config, metadata.cache):
                return None
            self._native_layers = NativeLayers(self.layers, self.config, metadata.cache, self.rope)
        return self._native_layers

    def weight_map(self) -> WeightMap:
        layers = {f"model.layers.{index}": cast(DecoderLayer, layer) for index, layer in enumerate(self.layers)}
        return compose({"model.embed_tokens": self.embed, **layers, "model.norm": self.norm, "lm_head": self.head})


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.attention_norm = RMSNorm(hidden, config.norm_eps)
        self.qkv = FusedLinear(
            hidden, {"q_proj": query, "k_proj": key_value, "v_proj": key_value}, bias=config.qkv_bias
        )
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.output = Linear(query, hidden, bias=config.output_bias)
        self.mlp_norm = RMSNorm(hidden, config.norm_eps)
        self.mlp = GatedMLP(hidden, intermediate, bias=config.mlp_bias)

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepTensors) -> tuple[Tensor, Tensor | None]:
        """What the layer before added, and the stream that it was to be added to; the same of this layer.

        Without a second part, the first is the stream itself.
        """
        qkv, stream = self.qkv.after_norm(self.attention_norm, hidden, residual)
        hidden, residual = self.output.onto(self._attend(qkv, step).flatten(1), stream)
        return self.mlp.after_norm(self.mlp_norm, hidden, residual)

    def _attend(self, qkv: Tensor, step: StepTensors) -> Tensor:
        if step.takes_projection:
            return step.append_and_attend(
                self.index, qkv, self.num_heads, self.num_kv_heads, self.head_dim, self.q_norm, self.k_norm
            )
        heads = qkv.view(len(qkv), -1, self.head_dim)
        q, k, v = heads.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=1)  # type: ignore[no-untyped-call]
        # Queries and keys turn together: half as many kernels as one after the other.
        qk = heads[:, : -self.num_kv_heads]
        if self.q_norm is not None and self.k_norm is not None:
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), dim=1)
        turned = rotate(qk, step.rotation)
        q, k = turned[:, : self.num_heads], turned[:, self.num_heads :]
        return step.attention.forward(self.index, q, k, v, step.metadata)

    def weight_map(self) -> WeightMap:
        attention = compose({"": self.qkv, "q_norm": self.q_norm, "k_norm": self.k_norm, "o_proj": self.output})
        slots = compose({"input_layernorm": self.attention_norm, "post_attention_layernorm": self.mlp_norm})
        slots |= {f"self_attn.{name}": slot for name, slot in attention.items()} | compose({"mlp": self.mlp})
        # Fused projections come last, because dummy weights are drawn in this order: a seed stands for the same values.
        return dict(sorted(slots.items(), key=lambda item: isinstance(item[1].module, FusedLinear)))
