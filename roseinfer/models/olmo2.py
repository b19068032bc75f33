"""OLMo 2 and 3: norms after attention and MLP, norms over all query and all key heads; OLMo 3 has windows.

OLMo et al., 2025, https://arxiv.org/abs/2501.00656.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.errors import ModelError
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import FULL, SLIDING, gguf, hf_config, hf_windows, hugging_face, with_windows
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
    kinds = [FULL if (index + 1) % 4 == 0 else SLIDING for index in range(size(raw, "num_hidden_layers"))]
    windows = hf_windows(raw, optional(raw, "sliding_window", int, 4096), kinds)
    config = with_windows(hf_config("olmo3", raw, rope=(full, context), **_shared(raw)), windows)
    specs = tuple(
        spec if spec.window is None else msgspec.structs.replace(spec, rope=sliding) for spec in config.attention_specs
    )
    return msgspec.structs.replace(config, layer_attention=specs)


def _shared(raw: Mapping[str, Any]) -> dict[str, Any]:
    bias = optional(raw, "attention_bias", bool, False)
    return {"block": "post_norm", "joint_qk_norm": True, "qkv_bias": bias, "output_bias": bias}


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config of OLMo 2 or, if the file has a sliding window, OLMo 3.

    Scaled rotation applies to the layers without a window, as in llama.cpp.
    """
    pattern = checkpoint.fields.get("olmo2.attention.sliding_window_pattern")
    window = config.sliding_window
    if window is None or config.rope is None:
        return msgspec.structs.replace(config, sliding_window=None)
    has_window = pattern if isinstance(pattern, list) else [(index + 1) % 4 for index in range(config.num_layers)]
    if len(has_window) != config.num_layers:
        raise ModelError(f"sliding_window_pattern has {len(has_window)} values for {config.num_layers} layers")
    unscaled = msgspec.structs.replace(config.rope, scaling=None)
    specs = tuple(
        msgspec.structs.replace(spec, window=window if has else None, rope=unscaled if has else config.rope)
        for spec, has in zip(config.attention_specs, has_window, strict=True)
    )
    return msgspec.structs.replace(config, sliding_window=None, layer_attention=specs)


_GGUF_NAMES = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}

OLMO2 = Architecture(
    "olmo2",
    Decoder,
    hugging_face(olmo2_from_hf),
    gguf("olmo2", names=_GGUF_NAMES, adapt=config_from_gguf, block="post_norm", joint_qk_norm=True),
)
OLMO3 = Architecture("olmo3", Decoder, hugging_face(olmo3_from_hf))
