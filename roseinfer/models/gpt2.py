"""GPT-2: LayerNorm, learned positions, multi-head attention, tanh-approximated GELU (Radford et al., 2019)."""

from collections.abc import Collection, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.attention.base import AttentionBackend, AttentionMetadata
from roseinfer.errors import ModelError
from roseinfer.models.base import Architecture, CausalLM, Transform
from roseinfer.models.config import ModelConfig, require
from roseinfer.models.layers import Embedding, LayerNorm, Linear


class GPT2(CausalLM):
    """Token and position embeddings, layers, norm, head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(GPT2Layer(config, index) for index in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.norm_eps)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self, token_ids: Tensor, positions: Tensor, attention: AttentionBackend, metadata: AttentionMetadata
    ) -> Tensor:
        hidden = self.embed(token_ids) + self.embed_positions(positions)
        for layer in self.layers:
            hidden = layer(hidden, attention, metadata)
        normed: Tensor = self.norm(hidden)
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight if self.head is None else self.head.weight)

    def weight_views(self) -> dict[str, Tensor]:
        views: dict[str, Tensor] = {
            "transformer.wte.weight": self.embed.weight,
            "transformer.wpe.weight": self.embed_positions.weight,
        }
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, GPT2Layer)
            views |= {f"transformer.h.{index}.{name}": view for name, view in layer.weight_views().items()}
        views["transformer.ln_f.weight"] = self.norm.weight
        views["transformer.ln_f.bias"] = self.norm.bias
        if self.head is not None:
            views["lm_head.weight"] = self.head.weight
        return views


class GPT2Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_dim = config.head_dim
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.attention_norm = LayerNorm(hidden, config.norm_eps)
        self.qkv = Linear(hidden, 3 * hidden, bias=True)
        self.output = Linear(hidden, hidden, bias=True)
        self.mlp_norm = LayerNorm(hidden, config.norm_eps)
        self.up = Linear(hidden, intermediate, bias=True)
        self.down = Linear(intermediate, hidden, bias=True)

    def forward(self, hidden: Tensor, attention: AttentionBackend, metadata: AttentionMetadata) -> Tensor:
        qkv = self.qkv(self.attention_norm(hidden))
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv.chunk(3, dim=-1))
        attended = attention.forward(self.index, q, k, v, metadata)
        hidden = hidden + self.output(attended.flatten(1))
        mlp: Tensor = self.down(F.gelu(self.up(self.mlp_norm(hidden)), approximate="tanh"))
        return hidden + mlp

    def weight_views(self) -> dict[str, Tensor]:
        """This layer's weights by their name below `transformer.h.N.`; checkpoints hold matrices as [in, out]."""
        views: dict[str, Tensor] = {
            "ln_1.weight": self.attention_norm.weight,
            "ln_1.bias": self.attention_norm.bias,
            "ln_2.weight": self.mlp_norm.weight,
            "ln_2.bias": self.mlp_norm.bias,
        }
        matrices = {"attn.c_attn": self.qkv, "attn.c_proj": self.output, "mlp.c_fc": self.up, "mlp.c_proj": self.down}
        for name, linear in matrices.items():
            assert linear.bias is not None
            views[f"{name}.weight"] = linear.weight.t()
            views[f"{name}.bias"] = linear.bias
        return views


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """A GPT-2 config.json."""
    activation = raw.get("activation_function", "gelu_new")
    if activation not in ("gelu_new", "gelu_pytorch_tanh"):
        raise ModelError(f"activation_function {activation!r} is not supported by GPT-2; supported: gelu_new")
    for key, supported in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if raw.get(key, supported) != supported:
            raise ModelError(f"{key} = {raw[key]} is not supported by GPT-2")
    hidden_size = require(raw, "n_embd", int)
    num_heads = require(raw, "n_head", int)
    return ModelConfig(
        architecture="gpt2",
        vocab_size=require(raw, "vocab_size", int),
        hidden_size=hidden_size,
        num_layers=require(raw, "n_layer", int),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=raw.get("n_inner") or 4 * hidden_size,
        max_position_embeddings=require(raw, "n_positions", int),
        norm_eps=require(raw, "layer_norm_epsilon", float),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", True)),
    )


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> ModelConfig:
    """The `gpt2.*` keys of a GGUF file."""
    hidden_size = require(metadata, "gpt2.embedding_length", int)
    num_heads = require(metadata, "gpt2.attention.head_count", int)
    return ModelConfig(
        architecture="gpt2",
        vocab_size=len(require(metadata, "tokenizer.ggml.tokens", list)),
        hidden_size=hidden_size,
        num_layers=require(metadata, "gpt2.block_count", int),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=require(metadata, "gpt2.feed_forward_length", int),
        max_position_embeddings=require(metadata, "gpt2.context_length", int),
        norm_eps=require(metadata, "gpt2.attention.layer_norm_epsilon", float),
        tie_word_embeddings="output.weight" not in tensor_names,
    )


_GGUF_GLOBAL = {"token_embd": "wte", "position_embd": "wpe", "output_norm": "ln_f"}
_GGUF_LAYER = {
    "attn_norm": "ln_1",
    "ffn_norm": "ln_2",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_MATRICES = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")


def gguf_weight(name: str, _config: ModelConfig) -> tuple[str, Transform | None] | None:
    """llama.cpp's tensor names; its converter transposes the matrices, which is undone here."""
    if name == "output.weight":
        return "lm_head.weight", None
    module, _, kind = name.rpartition(".")
    if module in _GGUF_GLOBAL:
        return f"transformer.{_GGUF_GLOBAL[module]}.{kind}", None
    block, _, module = module.removeprefix("blk.").partition(".")
    if not name.startswith("blk.") or module not in _GGUF_LAYER:
        return None
    transform = Tensor.t if module in _MATRICES and kind == "weight" else None
    return f"transformer.h.{block}.{_GGUF_LAYER[module]}.{kind}", transform


def hf_weight(name: str) -> str | None:
    """Checkpoints of the bare model lack the prefix; old ones carry attention masks as if they were weights."""
    if name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


GPT2_ARCHITECTURE = Architecture("gpt2", GPT2, config_from_hf, config_from_gguf, gguf_weight, hf_weight)
