"""Command R and Command R7B: attention and MLP side by side on one layer norm, neighbors as rotary pairs.

Cohere, 2024. Command R7B (`cohere2`) has windows, and rotary positions only in the layers with a window.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import (
    full_every,
    gguf,
    hf_config,
    hf_windows,
    hugging_face,
    reordered_qk,
    with_windows,
)
from roseinfer.models.dialect import Architecture, Checkpoint
from roseinfer.models.fields import optional, require, require_feature, size
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf


def cohere_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Command R config.json to a ModelConfig."""
    require_feature("use_qk_norm", optional(raw, "use_qk_norm", bool, False), False)
    return _config("cohere", raw, default_theta=500_000.0)


def cohere2_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Command R7B config.json to a ModelConfig."""
    kinds = full_every(size(raw, "sliding_window_pattern", 4), size(raw, "num_hidden_layers"))
    windows = hf_windows(raw, optional(raw, "sliding_window", int, 4096), kinds)
    config = with_windows(_config("cohere2", raw, default_theta=10_000.0), windows)
    return config.with_attention(
        lambda _, spec: msgspec.structs.replace(spec, rope=None) if spec.window is None else spec
    )


def _config(name: str, raw: Mapping[str, Any], default_theta: float) -> ModelConfig:
    bias = optional(raw, "attention_bias", bool, False)
    return hf_config(
        name,
        raw,
        rope=rope_from_hf(raw, default_theta=default_theta),
        norm_eps="layer_norm_eps",
        tied=True,
        norm="layer",
        block="parallel",
        shared_norm=True,
        qkv_bias=bias,
        output_bias=bias,
        logit_scale=optional(raw, "logit_scale", float, 0.0625),
    )


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with the factor on logits and, for Command R7B, a window in three layers of four."""
    name = "command-r" if config.architecture == "cohere" else "cohere2"
    config = msgspec.structs.replace(config, logit_scale=require(checkpoint.fields, f"{name}.logit_scale", float))
    if config.sliding_window is None:
        return config
    return config.with_attention(
        lambda index, spec: spec if (index + 1) % 4 else msgspec.structs.replace(spec, window=None, rope=None)
    )


_FLAGS: dict[str, Any] = {"norm": "layer", "block": "parallel", "shared_norm": True}

COHERE = Architecture(
    "cohere",
    Decoder,
    hugging_face(cohere_from_hf, reordered_qk(interleaved=True)),
    gguf("command-r", architecture="cohere", reorders_qk=True, adapt=config_from_gguf, **_FLAGS),
    gguf_name="command-r",
)
COHERE2 = Architecture(
    "cohere2",
    Decoder,
    hugging_face(cohere2_from_hf, reordered_qk(interleaved=True)),
    gguf("cohere2", reorders_qk=True, adapt=config_from_gguf, **_FLAGS),
)
