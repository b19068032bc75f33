"""EXAONE 4.0: norms after attention and MLP, normalized query and key heads, and windows in most layers of the 32B.

LG AI Research, 2025, https://arxiv.org/abs/2507.11407. A model with windows rotates only in the layers that have one.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import (
    GGUF_NORMS_AFTER,
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


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert an EXAONE 4.0 config.json to a ModelConfig."""
    config = hf_config("exaone4", raw, block="post_norm", qk_norm=True)
    window = optional(raw, "sliding_window", int, 0) or None
    if window is None:
        return config
    # The 32B's pattern is "LLLG", but it also lists its layers.
    period = 4 if raw.get("layer_types") else size(raw, "sliding_window_pattern", 4)
    windows = hf_windows(raw, window, full_every(period, config.num_layers))
    return _rotated_in_windows(with_windows(config, windows))


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with windows and rotations in some layers, if the file has a window."""
    if config.sliding_window is None:
        return config
    has_window = gguf_has_window("exaone4", config, checkpoint, period=4)
    return _rotated_in_windows(
        with_windows(config, [config.sliding_window if windowed else None for windowed in has_window])
    )


def _rotated_in_windows(config: ModelConfig) -> ModelConfig:
    return config.with_attention(
        lambda _, spec: msgspec.structs.replace(spec, rope=None) if spec.window is None else spec
    )


EXAONE4 = Architecture(
    "exaone4",
    Decoder,
    hugging_face(config_from_hf),
    gguf("exaone4", names=GGUF_NORMS_AFTER, adapt=config_from_gguf, block="post_norm", qk_norm=True),
)
