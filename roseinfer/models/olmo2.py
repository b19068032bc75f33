"""OLMo 2 and 3: norms after attention and MLP, norms over all query and all key heads; OLMo 3 has windows.

OLMo et al., 2025, https://arxiv.org/abs/2501.00656.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import FULL, SLIDING, hf_config, hf_windows, hugging_face, with_windows
from roseinfer.models.dialect import Architecture
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


OLMO2 = Architecture("olmo2", Decoder, hugging_face(olmo2_from_hf))
OLMO3 = Architecture("olmo3", Decoder, hugging_face(olmo3_from_hf))
