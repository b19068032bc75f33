"""Gemma 1 and 2: norms whose weights are stored less 1, scaled embeddings, a GELU gate.

Gemma 2 has norms before and after attention and MLP, a window in every second layer, and bounds of scores and logits.
Gemma Team, 2024, https://arxiv.org/abs/2403.08295 and https://arxiv.org/abs/2408.00118.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from roseinfer.kernels.attention.attention_spec import AttentionSpec
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import (
    GGUF_SANDWICH,
    full_every,
    gguf,
    hf_config,
    hf_weight,
    hf_windows,
    hugging_face,
    with_windows,
)
from roseinfer.models.dialect import Architecture, Checkpoint, WeightPlace
from roseinfer.models.fields import optional, require_feature, size
from roseinfer.models.model_config import ModelConfig

_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
        "vocab_size": 256_000,
        "hidden_size": 3072,
        "intermediate_size": 24_576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
    },
    "gemma2": {
        "vocab_size": 256_000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 4096,
    },
}
"""Values of fields that a config.json leaves out, as in transformers. null, where a bound may be null, means none."""

_LAYERS_OF_27B = 46
"""The 27B model of Gemma 2, the only one with so many layers, scales scores by another size."""


def config_from_hf(name: str, raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a config.json of Gemma ("gemma") or Gemma 2 ("gemma2") to a ModelConfig."""
    raw = {**_DEFAULTS[name], **raw}
    require_feature("use_bidirectional_attention", raw.get("use_bidirectional_attention") or False, False)
    bias = optional(raw, "attention_bias", bool, False)
    shared: dict[str, Any] = {
        "tied": True,
        "qkv_bias": bias,
        "output_bias": bias,
        "embedding_scale": math.sqrt(size(raw, "hidden_size")),
    }
    if name == "gemma":
        # Early checkpoints say "gelu", but were trained with the approximation, which transformers uses for all.
        return hf_config(name, {**raw, "hidden_act": "gelu_pytorch_tanh"}, activations=("gelu_tanh",), **shared)
    config = hf_config(
        name,
        raw,
        activation="hidden_activation",
        default_activation="gelu_pytorch_tanh",
        activations=("gelu_tanh",),
        block="sandwich",
        logit_softcap=_bound(raw, "final_logit_softcapping"),
        **shared,
    )
    window = optional(raw, "sliding_window", int, 0) or None
    config = with_windows(config, hf_windows(raw, window, full_every(2, config.num_layers)))
    scale = optional(raw, "query_pre_attn_scalar", float, 256.0) ** -0.5
    softcap = _bound(raw, "attn_logit_softcapping")
    return config.with_attention(lambda _, spec: msgspec.structs.replace(spec, scale=scale, softcap=softcap))


def gemma_weight(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map. Gemma's norms store their weight less 1."""
    return (name, lambda weight: weight + 1.0) if name.endswith("norm.weight") else hf_weight(name, config)


def gemma2_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with what llama.cpp knows of Gemma 2: windows, scales and bounds."""
    metadata = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    metadata |= {key.removeprefix("gemma2."): value for key, value in checkpoint.fields.items()}
    has_other_scale = config.num_layers == _LAYERS_OF_27B
    scale = (config.hidden_size // config.num_heads if has_other_scale else config.head_dim) ** -0.5
    softcap = _bound(metadata, "attn_logit_softcapping")

    def attention(index: int, spec: AttentionSpec) -> AttentionSpec:
        window = None if index % 2 else spec.window or 4096
        return msgspec.structs.replace(spec, scale=scale, window=window, softcap=softcap)

    return msgspec.structs.replace(
        config.with_attention(attention),
        embedding_scale=math.sqrt(config.hidden_size),
        logit_softcap=_bound(metadata, "final_logit_softcapping"),
    )


def gemma_from_gguf(config: ModelConfig, _checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with what llama.cpp knows of Gemma: the factor on embeddings."""
    return msgspec.structs.replace(config, embedding_scale=math.sqrt(config.hidden_size))


def _bound(fields: Mapping[str, Any], key: str) -> float | None:
    """Return a bound of scores or logits. None and 0: there is none."""
    return optional(fields, key, float, 0.0) or None


GEMMA = Architecture(
    "gemma",
    Decoder,
    hugging_face(partial(config_from_hf, "gemma"), gemma_weight),
    gguf("gemma", adapt=gemma_from_gguf, activation="gelu_tanh"),
)
GEMMA2 = Architecture(
    "gemma2",
    Decoder,
    hugging_face(partial(config_from_hf, "gemma2"), gemma_weight),
    gguf("gemma2", names=GGUF_SANDWICH, adapt=gemma2_from_gguf, block="sandwich", activation="gelu_tanh"),
)
