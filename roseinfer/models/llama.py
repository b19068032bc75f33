"""Llama-style models: RMSNorm, rotary positions, grouped-query attention, SwiGLU (Touvron et al., 2023)."""

from collections.abc import Collection, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.attention.base import AttentionBackend, AttentionMetadata
from roseinfer.errors import ModelError
from roseinfer.models.base import Architecture, CausalLM, Transform
from roseinfer.models.config import ModelConfig, require
from roseinfer.models.layers import Embedding, FusedLinear, Linear, RMSNorm, RotaryEmbedding, rotate


class Llama(CausalLM):
    """Embedding, layers, norm, head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.rope_theta is None:
            raise ModelError("a Llama-style model needs rope_theta")
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.rope = RotaryEmbedding(config.head_dim, config.max_position_embeddings, config.rope_theta)
        self.layers = nn.ModuleList(LlamaLayer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend, metadata: AttentionMetadata
    ) -> Tensor:
        hidden = self.embed(token_ids)
        rotation = self.rope.rotation(positions)
        for layer in self.layers:
            hidden = layer(hidden, rotation, attention, metadata)
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight if self.head is None else self.head.weight)

    def weight_views(self) -> dict[str, Tensor]:
        views: dict[str, Tensor] = {"model.embed_tokens.weight": self.embed.weight}
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, LlamaLayer)
            views |= {f"model.layers.{index}.{name}": view for name, view in layer.weight_views().items()}
        views["model.norm.weight"] = self.norm.weight
        if self.head is not None:
            views["lm_head.weight"] = self.head.weight
        return views


class LlamaLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.attention_norm = RMSNorm(hidden, config.norm_eps)
        self.qkv = FusedLinear(
            hidden, {"q_proj": query, "k_proj": key_value, "v_proj": key_value}, bias=config.qkv_bias
        )
        self.output = Linear(query, hidden, bias=config.output_bias)
        self.mlp_norm = RMSNorm(hidden, config.norm_eps)
        self.gate_up = FusedLinear(hidden, {"gate_proj": intermediate, "up_proj": intermediate}, bias=config.mlp_bias)
        self.down = Linear(intermediate, hidden, bias=config.mlp_bias)

    def forward(
        self,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        attention: AttentionBackend,
        metadata: AttentionMetadata,
    ) -> Tensor:
        qkv = self.qkv(self.attention_norm(hidden))
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv.split(list(self.qkv.parts.values()), dim=-1))
        attended = attention.forward(self.index, rotate(q, rotation), rotate(k, rotation), v, metadata)
        hidden = hidden + self.output(attended.flatten(1))
        gate, up = self.gate_up(self.mlp_norm(hidden)).chunk(2, dim=-1)
        mlp: Tensor = self.down(F.silu(gate) * up)
        return hidden + mlp

    def weight_views(self) -> dict[str, Tensor]:
        """This layer's weights by their name below `model.layers.N.`."""
        views: dict[str, Tensor] = {
            "input_layernorm.weight": self.attention_norm.weight,
            "post_attention_layernorm.weight": self.mlp_norm.weight,
            "self_attn.o_proj.weight": self.output.weight,
            "mlp.down_proj.weight": self.down.weight,
        }
        if self.output.bias is not None:
            views["self_attn.o_proj.bias"] = self.output.bias
        if self.down.bias is not None:
            views["mlp.down_proj.bias"] = self.down.bias
        for module, fused in (("self_attn", self.qkv), ("mlp", self.gate_up)):
            for part in fused.parts:
                views |= {f"{module}.{part}.{kind}": view for kind, view in fused.part(part).items()}
        return views


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """A Llama config.json, of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters)."""
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f"hidden_act {activation!r} is not supported by the Llama architecture; supported: silu")
    rope = {"rope_theta": raw.get("rope_theta", 10000.0)}
    rope |= raw.get("rope_scaling") or {}
    rope |= raw.get("rope_parameters") or {}
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if scaling != "default":
        raise ModelError(f"RoPE scaling {scaling!r} is not supported; supported: default")
    num_heads = require(raw, "num_attention_heads", int)
    hidden_size = require(raw, "hidden_size", int)
    return ModelConfig(
        architecture="llama",
        vocab_size=require(raw, "vocab_size", int),
        hidden_size=hidden_size,
        num_layers=require(raw, "num_hidden_layers", int),
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads") or num_heads,
        head_dim=raw.get("head_dim") or hidden_size // num_heads,
        intermediate_size=require(raw, "intermediate_size", int),
        max_position_embeddings=require(raw, "max_position_embeddings", int),
        norm_eps=require(raw, "rms_norm_eps", float),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        rope_theta=require(rope, "rope_theta", float),
        qkv_bias=bool(raw.get("attention_bias", False)),
        output_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
    )


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> ModelConfig:
    """The `llama.*` keys of a GGUF file."""
    if scaling := metadata.get("llama.rope.scaling.type"):
        raise ModelError(f"RoPE scaling {scaling!r} is not supported; supported: default")
    num_heads = require(metadata, "llama.attention.head_count", int)
    hidden_size = require(metadata, "llama.embedding_length", int)
    head_dim = metadata.get("llama.attention.key_length") or hidden_size // num_heads
    if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ModelError("partial rotary embeddings (rope.dimension_count below the head size) are not supported")
    return ModelConfig(
        architecture="llama",
        vocab_size=metadata.get("llama.vocab_size") or len(require(metadata, "tokenizer.ggml.tokens", list)),
        hidden_size=hidden_size,
        num_layers=require(metadata, "llama.block_count", int),
        num_heads=num_heads,
        num_kv_heads=metadata.get("llama.attention.head_count_kv") or num_heads,
        head_dim=head_dim,
        intermediate_size=require(metadata, "llama.feed_forward_length", int),
        max_position_embeddings=require(metadata, "llama.context_length", int),
        norm_eps=require(metadata, "llama.attention.layer_norm_rms_epsilon", float),
        tie_word_embeddings="output.weight" not in tensor_names,
        rope_theta=float(metadata.get("llama.rope.freq_base", 10000.0)),
    )


_GGUF_GLOBAL = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gguf_weight(name: str, config: ModelConfig) -> tuple[str, Transform | None] | None:
    """llama.cpp's tensor names; its converter reorders the rows of Q and K, which is undone here."""
    if name in _GGUF_GLOBAL:
        return _GGUF_GLOBAL[name], None
    if name == "rope_freqs.weight":
        raise ModelError("RoPE scaling 'llama3' (rope_freqs in the GGUF file) is not supported; supported: default")
    block, _, rest = name.removeprefix("blk.").partition(".")
    module, _, kind = rest.rpartition(".")
    if not name.startswith("blk.") or module not in _GGUF_LAYER:
        return None
    transform = None
    if module == "attn_q":
        transform = _half_split_rows(config.num_heads)
    elif module == "attn_k":
        transform = _half_split_rows(config.num_kv_heads)
    return f"model.layers.{block}.{_GGUF_LAYER[module]}.{kind}", transform


def _half_split_rows(heads: int) -> Transform:
    """Rows of interleaved rotary pairs (x0, y0, x1, y1, ...) to half-split ones (x0, x1, ..., y0, y1, ...)."""
    return lambda rows: rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)


LLAMA = Architecture("llama", Llama, config_from_hf, config_from_gguf, gguf_weight)
