"""Dialects of the shared decoder: config.json with Hugging Face's weight names, and GGUF with llama.cpp's names.

An architecture's own file contains only the differences in its checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import Rope
from roseinfer.models.activation_names import ActivationName, activation_from_hf
from roseinfer.models.dialect import Checkpoint, Dialect, Transform, WeightPlace
from roseinfer.models.fields import gguf_vocab_size, optional, require, require_feature, size
from roseinfer.models.head_layout import reordered_heads
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_gguf, rope_from_hf

FULL, SLIDING = "full_attention", "sliding_attention"
"""Types of layers in a config.json: with attention to all tokens, and with a sliding window."""

_ROPE_DIVISORS = "rope_freqs.weight"
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
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


HfWeight = Callable[[str, ModelConfig], WeightPlace | None]


def hugging_face(config: Callable[[Mapping[str, Any]], ModelConfig], weight: HfWeight | None = None) -> Dialect:
    """Return the Hugging Face dialect of an architecture. `config` converts its config.json to a ModelConfig.

    `weight` maps the names of tensors; None: they have the names of the weight map.
    """
    return Dialect(lambda checkpoint: config(checkpoint.fields), weight or hf_weight)


def reordered_qk(interleaved: bool) -> HfWeight:
    """Return a weight function that reorders query and key heads for the kernels' rotation.

    For models that rotate a part of each head, and for `interleaved` pairs.
    """

    def weight(name: str, config: ModelConfig) -> WeightPlace | None:
        heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}.get(name.split(".")[-2])
        rope = next((spec.rope for spec in config.attention_specs if spec.rope is not None), None)
        if heads is None or rope is None or not (interleaved or rope.rotary_dim):
            return hf_weight(name, config)
        return name, reordered_heads(heads, config.head_dim, rope.rotary_dim, interleaved=interleaved)

    return weight


def gguf(name: str, *, reorders_qk: bool = False, **flags: Any) -> Dialect:
    """Return the GGUF dialect of the architecture that llama.cpp also calls `name`.

    `flags` are fields of ModelConfig that the file does not contain. With `reorders_qk`, llama.cpp's converter
    reorders the rows of Q and K for llama.cpp's rotation, and loading restores their order.
    """
    return Dialect(partial(_gguf_config, name, flags), partial(_gguf_weight, reorders_qk))


def hf_config(
    architecture: str,
    raw: Mapping[str, Any],
    *,
    rope: tuple[Rope, int] | None = None,
    norm_eps: str = "rms_norm_eps",
    activation: str = "hidden_act",
    default_activation: str = "silu",
    activations: tuple[ActivationName, ...] = ("silu",),
    tied: bool = False,
    **flags: Any,
) -> ModelConfig:
    """Convert the config.json fields that Llama-style architectures share. `flags` are the other ModelConfig fields.

    `rope` is the result of `rope_from_hf`, for models that call it in their own way. `norm_eps` and `activation` are
    the keys of these fields, and `tied` is the default of tie_word_embeddings.
    """
    num_heads = size(raw, "num_attention_heads")
    hidden_size = size(raw, "hidden_size")
    rotary, context = rope_from_hf(raw) if rope is None else rope
    fields: dict[str, Any] = {
        "architecture": architecture,
        "vocab_size": size(raw, "vocab_size"),
        "hidden_size": hidden_size,
        "num_layers": size(raw, "num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": size(raw, "num_key_value_heads", num_heads),
        "head_dim": size(raw, "head_dim", hidden_size // num_heads),
        "intermediate_size": size(raw, "intermediate_size"),
        "max_position_embeddings": context,
        "norm_eps": require(raw, norm_eps, float),
        "tie_word_embeddings": optional(raw, "tie_word_embeddings", bool, tied),
        "rope": rotary,
        "activation": activation_from_hf(activation, raw.get(activation, default_activation), activations),
    }
    return ModelConfig(**fields | flags)


def hf_windows(raw: Mapping[str, Any], window: int | None, default_kinds: Sequence[str]) -> list[int | None]:
    """Return the sliding window of each layer, None for layers that attend to all tokens.

    `layer_types` names the layers with a window; `default_kinds` are the types where the config has no such field.
    """
    num_layers = size(raw, "num_hidden_layers")
    kinds = optional(raw, "layer_types", list, list(default_kinds))
    if len(kinds) != num_layers:
        raise ModelError(f"layer_types has {len(kinds)} types for {num_layers} layers")
    if unknown := sorted(set(map(str, kinds)) - {FULL, SLIDING}):
        raise ModelError(f"layer type {unknown[0]!r} is not supported; supported: {FULL}, {SLIDING}")
    return [window if kind == SLIDING else None for kind in kinds]


def with_windows(config: ModelConfig, windows: Sequence[int | None]) -> ModelConfig:
    """Return the config with a sliding window per layer."""
    if len(set(windows)) == 1:
        return msgspec.structs.replace(config, sliding_window=windows[0])
    pairs = zip(config.attention_specs, windows, strict=True)
    specs = tuple(msgspec.structs.replace(spec, window=window) for spec, window in pairs)
    return msgspec.structs.replace(config, layer_attention=specs)


def hf_weight(name: str, _config: ModelConfig) -> WeightPlace | None:
    """Return the stored name unchanged, or None for rotary frequencies, which old checkpoints contain."""
    return None if name.endswith(".rotary_emb.inv_freq") else (name, None)


def _gguf_config(prefix: str, flags: dict[str, Any], checkpoint: Checkpoint) -> ModelConfig:
    metadata, names = checkpoint.fields, checkpoint.tensor_names
    num_heads = size(metadata, f"{prefix}.attention.head_count")
    hidden_size = size(metadata, f"{prefix}.embedding_length")
    head_dim = size(metadata, f"{prefix}.attention.key_length", hidden_size // num_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        require_feature(f"{prefix}.{key}", metadata.get(f"{prefix}.{key}", head_dim), head_dim)
    require_feature(f"{prefix}.expert_count", metadata.get(f"{prefix}.expert_count", 0), 0)
    if f"{prefix}.attention.sliding_window_pattern" in metadata:
        raise ModelError("a sliding window in some of the layers is not supported; supported: in all layers, in none")
    divisors = None
    if _ROPE_DIVISORS in names and checkpoint.read is not None:
        divisors = tuple(checkpoint.read(_ROPE_DIVISORS).flatten().tolist())
    rope, context = rope_from_gguf(metadata, prefix, divisors)
    fields: dict[str, Any] = {
        "architecture": prefix,
        "vocab_size": gguf_vocab_size(metadata, prefix),
        "hidden_size": hidden_size,
        "num_layers": size(metadata, f"{prefix}.block_count"),
        "num_heads": num_heads,
        "num_kv_heads": size(metadata, f"{prefix}.attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "intermediate_size": size(metadata, f"{prefix}.feed_forward_length"),
        "max_position_embeddings": context,
        "norm_eps": require(metadata, f"{prefix}.attention.layer_norm_rms_epsilon", float),
        "tie_word_embeddings": "output.weight" not in names,
        "rope": rope,
        "sliding_window": optional(metadata, f"{prefix}.attention.sliding_window", int, 0) or None,
        "qkv_bias": "blk.0.attn_q.bias" in names,
        "output_bias": "blk.0.attn_output.bias" in names,
        "mlp_bias": "blk.0.ffn_down.bias" in names,
    }
    return ModelConfig(**fields | flags)


def _gguf_weight(reorders_qk: bool, name: str, config: ModelConfig) -> WeightPlace | None:
    if name in _GGUF_GLOBAL:
        return _GGUF_GLOBAL[name], None
    if name == _ROPE_DIVISORS:
        return None  # read with the config
    block, _, rest = name.removeprefix("blk.").partition(".")
    module, _, kind = rest.rpartition(".")
    if not name.startswith("blk.") or module not in _GGUF_LAYER:
        return name, None  # unknown, so loading refuses it by this name
    transform = None
    if reorders_qk and module in ("attn_q", "attn_k"):
        transform = _half_split_rows(config.num_heads if module == "attn_q" else config.num_kv_heads)
    return f"model.layers.{block}.{_GGUF_LAYER[module]}.{kind}", transform


def _half_split_rows(heads: int) -> Transform:
    """Return a transform that reorders the rows of each head for our rotation.

    Rotary pairs are interleaved in the file (x0, y0, x1, y1, ...), and half-split here (x0, x1, ..., y0, y1, ...).
    """
    return lambda rows: rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)
