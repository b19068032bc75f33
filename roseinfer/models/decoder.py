"""The decoder that Llama-style architectures share: RMSNorm, rotary positions, grouped-query attention, gated MLP.

Llama (Touvron et al., 2023), Mistral, Qwen2 and Qwen3 differ only in their `ModelConfig`: biases, norms of queries and
keys, and the attention of each layer.
"""

from typing import cast

from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.errors import ModelError
from roseinfer.models.attention import Attention
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import FusedLinear, Linear
from roseinfer.models.mlp import GatedMLP
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import RMSNorm
from roseinfer.models.rope import RotaryEmbedding
from roseinfer.models.step_attention import StepAttention
from roseinfer.models.weight_map import WeightMap, compose


class Decoder(CausalLM):
    """A Llama-style language model: token embedding, layers, final norm, head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        specs = config.attention_specs
        ropes = {spec.rope: None for spec in specs if spec.rope is not None}
        if not ropes:
            raise ModelError(f"a model of the {config.architecture} architecture needs rotary positions")
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.ropes = nn.ModuleList(
            RotaryEmbedding(rope, config.head_dim, config.max_position_embeddings) for rope in ropes
        )
        """Rotary tables, one per distinct `Rope`. Layers with the same `Rope` share a table."""
        embeddings = dict(zip(ropes, self.ropes, strict=True))
        self.layers = nn.ModuleList(
            DecoderLayer(config, index, None if spec.rope is None else cast(RotaryEmbedding, embeddings[spec.rope]))
            for index, spec in enumerate(specs)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: AttentionBackend,
        metadata: AttentionMetadata,
        rows: Tensor | None = None,
    ) -> Tensor:
        hidden, residual = self.embed(token_ids), None
        step = StepAttention(attention, metadata, positions, rows, len(self.layers) - 1)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, step)
        return self.norm.after(hidden, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.embed.logits(hidden) if self.head is None else self.head.linear(hidden)

    def weight_map(self) -> WeightMap:
        layers = {f"model.layers.{index}": cast(DecoderLayer, layer) for index, layer in enumerate(self.layers)}
        return compose({"model.embed_tokens": self.embed, **layers, "model.norm": self.norm, "lm_head": self.head})


class DecoderLayer(nn.Module):
    """Attention and MLP, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int, rope: RotaryEmbedding | None = None) -> None:
        super().__init__()
        query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        hidden, eps = config.hidden_size, config.norm_eps
        parts = {"q_proj": query, "k_proj": key_value, "v_proj": key_value}
        self.attention_norm = RMSNorm(hidden, eps)
        self.attention = Attention(
            index,
            config.attention_specs[index],
            FusedLinear(hidden, parts, bias=config.qkv_bias),
            Linear(query, hidden, bias=config.output_bias),
            rope=rope,
            q_norm=RMSNorm(config.head_dim, eps) if config.qk_norm else None,
            k_norm=RMSNorm(config.head_dim, eps) if config.qk_norm else None,
        )
        self.mlp_norm = RMSNorm(hidden, eps)
        self.mlp = GatedMLP(hidden, config.intermediate_size, bias=config.mlp_bias)

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer. Takes and returns (hidden, residual) as `GatedMLP.after_norm` does."""
        hidden, residual = self.attention.after_norm(self.attention_norm, hidden, residual, step)
        return self.mlp.after_norm(self.mlp_norm, hidden, residual)

    def weight_map(self) -> WeightMap:
        slots = compose(
            {
                "input_layernorm": self.attention_norm,
                "post_attention_layernorm": self.mlp_norm,
                "self_attn": self.attention,
                "mlp": self.mlp,
            }
        )
        # Fused projections come last: dummy weights are drawn in this order, and a seed must keep its values.
        return dict(sorted(slots.items(), key=lambda item: isinstance(item[1].module, FusedLinear)))
