"""OLMo 2 and 3: norms after attention and MLP, norms over all query and all key heads; OLMo 3 has windows.

OLMo et al., 2025, https://arxiv.org/abs/2501.00656.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import (
    FULL,
    GGUF_NORMS_AFTER,
    SLIDING,
    full_every,
    gguf,
    gguf_has_window,
    hf_config,
    hf_windows,
    hugging_face,
    with_windows,
)
from roseinfer.models.dialect import Architecture, Checkpoint
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf


def olmo2_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert an OLMo 2 config.json to a ModelConfig."""
    return hf_config("olmo2", raw, **_shared(raw))


def olmo3_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert an OLMo 3 config.json to a ModelConfig. RoPE scaling applies to the layers without a window."""
    full, context = rope_from_hf(raw, layer_type=FULL, default_theta=500_000.0)
    unscaled = {key: value for key, value in raw.items() if key != "rope_scaling"}
    sliding, _ = rope_from_hf(unscaled, layer_type=SLIDING, default_theta=full.theta)
    kinds = full_every(4, size(raw, "num_hidden_layers"))
    windows = hf_windows(raw, optional(raw, "sliding_window", int, 4096), kinds)
    config = with_windows(hf_config("olmo3", raw, rope=(full, context), **_shared(raw)), windows)
    return config.with_attention(
        lambda _, spec: spec if spec.window is None else msgspec.structs.replace(spec, rope=sliding)
    )


def _shared(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = optional(raw, "attention_bias", bool, False)
    return {"block": "post_norm", "joint_qk_norm": True, "qkv_bias": bias, "output_bias": bias}


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config of OLMo 2 or, if the file has a sliding window, OLMo 3.

    Scaled rotation applies to the layers without a window, as in llama.cpp.
    """
    if config.sliding_window is None or config.rope is None:
        return msgspec.structs.replace(config, sliding_window=None)
    has_window = gguf_has_window("olmo2", config, checkpoint, period=4)
    unscaled = msgspec.structs.replace(config.rope, scaling=None)
    return config.with_attention(
        lambda index, spec: (
            msgspec.structs.replace(spec, rope=unscaled)
            if has_window[index]
            else msgspec.structs.replace(spec, window=None)
        )
    )


OLMO2 = Architecture(
    "olmo2",
    Decoder,
    hugging_face(olmo2_from_hf),
    gguf("olmo2", names=GGUF_NORMS_AFTER, adapt=config_from_gguf, block="post_norm", joint_qk_norm=True),
)
OLMO3 = Architecture("olmo3", Decoder, hugging_face(olmo3_from_hf))
