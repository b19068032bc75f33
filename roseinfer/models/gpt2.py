"""GPT-2: LayerNorm, learned positions, multi-head attention, GELU (Radford et al., 2019)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.attention.backend import AttentionBackend, AttentionMetadata
from roseinfer.errors import ModelError
from roseinfer.models.activation_names import activation_from_hf
from roseinfer.models.attention import Attention
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.dialect import Architecture, Checkpoint, Dialect, WeightPlace
from roseinfer.models.embedding import Embedding
from roseinfer.models.fields import gguf_vocab_size, optional, require, require_feature, size
from roseinfer.models.gpt2_trainer import GPT2_TRAINER
from roseinfer.models.linear import Linear
from roseinfer.models.mlp import MLP
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.norm_layers import LayerNorm
from roseinfer.models.parameter import parameter
from roseinfer.models.step_attention import StepAttention
from roseinfer.models.weight_map import WeightMap, WeightSlot, compose


class GPT2(CausalLM):
    """The GPT-2 language model: token and position embeddings, layers, final norm, head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(GPT2Layer(config, index) for index in range(config.num_layers))
        self.norm = LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.head_bias = parameter(config.vocab_size) if tied and config.head_bias else None

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention: AttentionBackend,
        metadata: Sequence[AttentionMetadata],
        rows: Tensor | None = None,
    ) -> Tensor:
        hidden, residual = self.embed.plus(token_ids, self.embed_positions, positions), None
        step = StepAttention(attention, metadata, positions, rows, len(self.layers) - 1)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, step)
        return self.norm.after(hidden, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.gathered(self.rank_logits(hidden))

    def rank_logits(self, hidden: Tensor) -> Tensor:
        logits, bias = self.head_logits(hidden), self.head_bias
        if bias is None or self.ranks is None:
            return logits if bias is None else logits + bias
        first, stop = self.rank_tokens
        return logits + F.pad(bias[first:stop], (0, logits.shape[1] - (stop - first)))

    def joining_norms(self) -> Sequence[LayerNorm]:
        layers = [cast(GPT2Layer, layer) for layer in self.layers]
        following = [*(layer.attention_norm for layer in layers[1:]), self.norm]
        return [norm for layer, after in zip(layers, following, strict=True) for norm in (layer.mlp_norm, after)]

    def weight_map(self) -> WeightMap:
        layers = {f"transformer.h.{index}": cast(GPT2Layer, layer) for index, layer in enumerate(self.layers)}
        embeddings = {"transformer.wte": self.embed, "transformer.wpe": self.embed_positions}
        slots = compose({**embeddings, **layers, "transformer.ln_f": self.norm, "lm_head": self.head})
        if self.head_bias is not None:
            slots["lm_head.bias"] = WeightSlot(self, "head_bias")
        return slots


class GPT2Layer(nn.Module):
    """Attention and MLP, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        heads = config.num_heads * config.head_dim
        self.attention_norm = LayerNorm(hidden, config.norm_eps, bias=config.norm_bias)
        self.attention = Attention(
            index,
            config.layer_groups.places[index],
            config.attention_specs[index],
            Linear(hidden, 3 * heads, bias=config.qkv_bias, stored_transposed=True),
            Linear(heads, hidden, bias=config.output_bias, stored_transposed=True),
        )
        self.mlp_norm = LayerNorm(hidden, config.norm_eps, bias=config.norm_bias)
        activation: Literal["gelu", "gelu_tanh"] = "gelu" if config.activation == "gelu" else "gelu_tanh"
        names = ("c_fc", "c_proj")
        self.mlp = MLP(hidden, intermediate, activation, bias=config.mlp_bias, names=names, stored_transposed=True)

    def forward(self, hidden: Tensor, residual: Tensor | None, step: StepAttention) -> tuple[Tensor, Tensor | None]:
        """Run the layer. Takes and returns (hidden, residual) as `GatedMLP.after_norm` does."""
        hidden, residual = self.attention.after_norm(self.attention_norm, hidden, residual, step)
        return self.mlp.after_norm(self.mlp_norm, hidden, residual)

    def weight_map(self) -> WeightMap:
        attention = {"attn.c_attn": self.attention.qkv, "attn.c_proj": self.attention.output}
        return compose({"ln_1": self.attention_norm, "ln_2": self.mlp_norm, **attention, "mlp": self.mlp})


def config_from_hf(checkpoint: Checkpoint) -> ModelConfig:
    """Convert a GPT-2 config.json to a ModelConfig."""
    raw = checkpoint.fields
    for key, supported in _ONLY.items():
        require_feature(key, optional(raw, key, bool, supported), supported)
    hidden_size = size(raw, "n_embd")
    return ModelConfig(
        **_SHARED,
        **_heads(hidden_size, size(raw, "n_head")),
        vocab_size=size(raw, "vocab_size"),
        num_layers=size(raw, "n_layer"),
        intermediate_size=size(raw, "n_inner", 4 * hidden_size),
        max_position_embeddings=size(raw, "n_positions", 1024),
        norm_eps=optional(raw, "layer_norm_epsilon", float, 1e-5),
        tie_word_embeddings=optional(raw, "tie_word_embeddings", bool, True),
        activation=activation_from_hf(
            "activation_function", raw.get("activation_function", "gelu_new"), ("gelu_tanh", "gelu")
        ),
    )


def hf_weight(name: str, _config: ModelConfig) -> WeightPlace | None:
    """Return the weight-map name of a stored tensor, or None if the tensor is skipped.

    Checkpoints of the model without its head lack the prefix "transformer.". Old checkpoints contain attention masks,
    which are skipped.
    """
    if name.endswith((".attn.bias", ".attn.masked_bias")):
        return None
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}", None


def config_from_gguf(checkpoint: Checkpoint) -> ModelConfig:
    """Convert the `gpt2.*` keys of a GGUF file to a ModelConfig."""
    metadata = checkpoint.fields
    hidden_size = size(metadata, "gpt2.embedding_length")
    return ModelConfig(
        **_SHARED,
        **_heads(hidden_size, size(metadata, "gpt2.attention.head_count")),
        vocab_size=gguf_vocab_size(metadata, "gpt2"),
        num_layers=size(metadata, "gpt2.block_count"),
        intermediate_size=size(metadata, "gpt2.feed_forward_length"),
        max_position_embeddings=size(metadata, "gpt2.context_length"),
        norm_eps=require(metadata, "gpt2.attention.layer_norm_epsilon", float),
        tie_word_embeddings="output.weight" not in checkpoint.tensor_names,
        activation="gelu_tanh",
    )


def gguf_weight(name: str, _config: ModelConfig) -> WeightPlace | None:
    """Map llama.cpp's name of a tensor to ours. Its converter transposes matrices, and the transform undoes that."""
    module, _, kind = name.rpartition(".")
    if module in _GGUF_GLOBAL:
        return f"{_GGUF_GLOBAL[module]}.{kind}", None
    block, _, module = module.removeprefix("blk.").partition(".")
    if not name.startswith("blk.") or module not in _GGUF_LAYER:
        return name, None  # unknown, so loading refuses it by this name
    transform = Tensor.t if module in _MATRICES and kind == "weight" else None
    return f"transformer.h.{block}.{_GGUF_LAYER[module]}.{kind}", transform


def _heads(hidden_size: int, num_heads: int) -> dict[str, Any]:
    if hidden_size % num_heads:
        raise ModelError(f"a hidden size of {hidden_size} is not a multiple of {num_heads} heads")
    head_dim = hidden_size // num_heads
    return {"hidden_size": hidden_size, "num_heads": num_heads, "num_kv_heads": num_heads, "head_dim": head_dim}


_SHARED: dict[str, Any] = {
    "architecture": "gpt2",
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "norm_bias": True,
}
_ONLY: Mapping[str, bool] = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
_GGUF_GLOBAL = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_GGUF_LAYER = {
    "attn_norm": "ln_1",
    "ffn_norm": "ln_2",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_MATRICES = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")

GPT2_ARCHITECTURE = Architecture(
    "gpt2", GPT2, Dialect(config_from_hf, hf_weight), Dialect(config_from_gguf, gguf_weight), GPT2_TRAINER
)
