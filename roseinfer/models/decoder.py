"""The decoder that Llama-style architectures share: norms, rotary positions, grouped-query attention, MLP.

Llama (Touvron et al., 2023) and its descendants differ only in their `ModelConfig`: the kind of layer and of norm,
biases, norms of queries and keys, scales, and the attention of each layer.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.errors import ModelError
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.decoder_blocks import DecoderLayer, new_block, new_norm
from roseinfer.models.embedding import Embedding
from roseinfer.models.linear import Linear
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import LayerNorm, RMSNorm
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
            new_block(config, index, None if spec.rope is None else cast(RotaryEmbedding, embeddings[spec.rope]))
            for index, spec in enumerate(specs)
        )
        self.norm = new_norm(config)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: AttentionBackend,
        metadata: Sequence[AttentionMetadata],
        rows: Tensor | None = None,
    ) -> Tensor:
        hidden, residual = self.embedded(token_ids), None
        in_layer = self.layers[-1].computes_rows
        step = StepAttention(attention, metadata, positions, rows if in_layer else None, len(self.layers) - 1)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, step)
        if rows is not None and not in_layer:
            hidden, residual = hidden[rows], None if residual is None else residual[rows]
        return self.norm.after(hidden, residual)[0]

    def embedded(self, token_ids: Tensor) -> Tensor:
        """Return the embeddings that the first layer takes, [tokens, hidden_size]."""
        hidden: Tensor = self.embed(token_ids)
        return hidden if self.config.embedding_scale == 1.0 else hidden * self.config.embedding_scale

    def logits(self, hidden: Tensor) -> Tensor:
        return self.gathered(self.rank_logits(hidden))

    def rank_logits(self, hidden: Tensor) -> Tensor:
        config = self.config
        logits = self.head_logits(hidden)
        if config.logit_scale != 1.0:
            logits = logits * config.logit_scale
        if config.logit_softcap is not None:
            logits = torch.tanh(logits / config.logit_softcap) * config.logit_softcap
        return logits

    def joining_norms(self) -> Sequence[RMSNorm | LayerNorm]:
        layers = [cast(DecoderLayer, layer) for layer in self.layers]
        following = [*(layer.attention_norm for layer in layers[1:]), self.norm]
        joining: list[RMSNorm | LayerNorm] = []
        for layer, after in zip(layers, following, strict=True):
            joining += [*layer.joining_norms(), after] if layer.ends_partial else layer.joining_norms()
        return joining

    def weight_map(self) -> WeightMap:
        layers = {f"model.layers.{index}": cast(DecoderLayer, layer) for index, layer in enumerate(self.layers)}
        return compose({"model.embed_tokens": self.embed, **layers, "model.norm": self.norm, "lm_head": self.head})
