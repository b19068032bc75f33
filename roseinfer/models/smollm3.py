"""SmolLM3: Llama without rotary positions in every fourth layer (Yang et al., 2025, https://arxiv.org/abs/2501.18795)."""

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


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a SmolLM3 config.json to a ModelConfig."""
    num_layers = size(raw, "num_hidden_layers")
    interval = size(raw, "no_rope_layer_interval", 4)
    rotates = optional(raw, "no_rope_layers", list, [(index + 1) % interval != 0 for index in range(num_layers)])
    if len(rotates) != num_layers:
        raise ModelError(f"no_rope_layers has {len(rotates)} values for {num_layers} layers")
    window = optional(raw, "sliding_window", int, 0) if optional(raw, "use_sliding_window", bool, False) else 0
    kinds = [SLIDING if window and not rotated else FULL for rotated in rotates]
    bias = optional(raw, "attention_bias", bool, False)
    config = hf_config(
        "smollm3",
        raw,
        rope=rope_from_hf(raw, default_theta=2_000_000.0),
        tied=True,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=optional(raw, "mlp_bias", bool, False),
    )
    config = with_windows(config, hf_windows(raw, window or None, kinds))
    return config.with_attention(
        lambda index, spec: spec if rotates[index] else msgspec.structs.replace(spec, rope=None)
    )


def config_from_gguf(config: ModelConfig, _checkpoint: Checkpoint) -> ModelConfig:
    """Return the config without rotations in every fourth layer, which the file does not say."""
    return config.with_attention(
        lambda index, spec: spec if (index + 1) % 4 else msgspec.structs.replace(spec, rope=None)
    )


SMOLLM3 = Architecture(
    "smollm3",
    Decoder,
    hugging_face(config_from_hf),
    gguf("smollm3", reorders_qk=True, adapt=config_from_gguf),
)
