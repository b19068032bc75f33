"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values (https://arxiv.org/abs/2407.10671)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hf_sliding_window, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Qwen2 config.json to a ModelConfig."""
    return hf_config("qwen2", raw, qkv_bias=True, sliding_window=qwen_sliding_window(raw))


def qwen_sliding_window(raw: Mapping[str, Any]) -> int | None:
    """Return the sliding window, or None. Qwen's windows are off unless `use_sliding_window` is set.

    The first `max_window_layers` layers have no window.
    """
    if not optional(raw, "use_sliding_window", bool, False):
        return None
    window = optional(raw, "sliding_window", int, 4096)
    return hf_sliding_window(raw, window, first_layer=optional(raw, "max_window_layers", int, 28))


QWEN2 = Architecture("qwen2", Decoder, hugging_face(config_from_hf), gguf("qwen2"))
