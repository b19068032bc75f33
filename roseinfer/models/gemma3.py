"""Gemma 3 (text): norms before and after attention and MLP, a window in five layers of six, two bases of rotation.

Gemma Team, 2025, https://arxiv.org/abs/2503.19786. The text model of a checkpoint with a vision tower is loaded alone.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.kernels.attention.attention_spec import AttentionSpec, Rope
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import (
    FULL,
    GGUF_SANDWICH,
    SLIDING,
    full_every,
    gguf,
    hf_config,
    hf_windows,
    hugging_face,
    with_windows,
)
from roseinfer.models.dialect import Architecture, Checkpoint, WeightPlace
from roseinfer.models.fields import optional, require_feature, size
from roseinfer.models.gemma2 import gemma_weight
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
}
"""Values of fields that a config.json leaves out, as in transformers."""

_PREFIXES = ("model.language_model.", "language_model.model.")
_OTHER_TOWERS = ("vision_tower", "multi_modal_projector")


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a config.json of Gemma 3, with or without a vision tower, to a ModelConfig."""
    text = {**_DEFAULTS, **optional(raw, "text_config", dict, dict(raw))}
    require_feature("use_bidirectional_attention", text.get("use_bidirectional_attention") or False, False)
    full, context = rope_from_hf(text, layer_type=FULL, default_theta=1_000_000.0)
    local = {**text, "rope_scaling": None, "rope_theta": optional(text, "rope_local_base_freq", float, 10_000.0)}
    sliding, _ = rope_from_hf(local, layer_type=SLIDING)
    kinds = full_every(size(text, "sliding_window_pattern", 6), size(text, "num_hidden_layers"))
    bias = optional(text, "attention_bias", bool, False)
    config = hf_config(
        "gemma3_text",
        text,
        rope=(full, context),
        activation="hidden_activation",
        default_activation="gelu_pytorch_tanh",
        activations=("gelu_tanh",),
        tied=True,
        block="sandwich",
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
        embedding_scale=math.sqrt(size(text, "hidden_size")),
        logit_softcap=optional(text, "final_logit_softcapping", float, 0.0) or None,
    )
    config = with_windows(config, hf_windows(text, optional(text, "sliding_window", int, 4096), kinds))
    scale = optional(text, "query_pre_attn_scalar", float, 256.0) ** -0.5
    softcap = optional(text, "attn_logit_softcapping", float, 0.0) or None
    return config.with_attention(
        lambda _, spec: msgspec.structs.replace(
            spec, scale=scale, softcap=softcap, rope=full if spec.window is None else sliding
        )
    )


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map. Norms store their weight less 1; weights of other towers are skipped."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = "model." + name.removeprefix(prefix)
    name = name.removeprefix("language_model.") if name.startswith("language_model.lm_head") else name
    if name.removeprefix("model.").startswith(_OTHER_TOWERS):
        return None
    return gemma_weight(name, config)


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with what llama.cpp knows of Gemma 3: windows, bases of rotation, scales."""
    metadata, rope = checkpoint.fields, config.rope
    assert rope is not None
    local = Rope(theta=optional(metadata, "gemma3.rope.freq_base_swa", float, 10_000.0))
    # The 27B model, the only one with 62 layers, scales scores by another size.
    size_of_scale = config.hidden_size // config.num_heads if config.num_layers == 62 else config.head_dim

    def attention(index: int, spec: AttentionSpec) -> AttentionSpec:
        window = spec.window if (index + 1) % 6 else None
        return msgspec.structs.replace(
            spec, scale=size_of_scale**-0.5, window=window, rope=rope if window is None else local
        )

    return msgspec.structs.replace(
        config.with_attention(attention),
        embedding_scale=math.sqrt(config.hidden_size),
        logit_softcap=optional(metadata, "gemma3.final_logit_softcapping", float, 0.0) or None,
    )


_GGUF = gguf(
    "gemma3",
    architecture="gemma3_text",
    names=GGUF_SANDWICH,
    adapt=config_from_gguf,
    block="sandwich",
    qk_norm=True,
    activation="gelu_tanh",
)

GEMMA3_TEXT = Architecture(
    "gemma3_text", Decoder, hugging_face(config_from_hf, weight_from_hf), _GGUF, gguf_name="gemma3"
)
GEMMA3 = Architecture("gemma3", Decoder, hugging_face(config_from_hf, weight_from_hf))
