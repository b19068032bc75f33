"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values (https://arxiv.org/abs/2407.10671)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import FULL, SLIDING, gguf, hf_config, hf_windows, hugging_face, with_windows
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Qwen2 config.json to a ModelConfig."""
    return with_windows(hf_config("qwen2", raw, qkv_bias=True), qwen_windows(raw))


def qwen_windows(raw: Mapping[str, Any]) -> list[int | None]:
    """Return the sliding window of each layer. Qwen's windows are off unless `use_sliding_window` is set.

    The first `max_window_layers` layers have no window.
    """
    num_layers = size(raw, "num_hidden_layers")
    if not optional(raw, "use_sliding_window", bool, False):
        return [None] * num_layers
    first = optional(raw, "max_window_layers", int, 28)
    kinds = [FULL if index < first else SLIDING for index in range(num_layers)]
    return hf_windows(raw, optional(raw, "sliding_window", int, 4096), kinds)


QWEN2 = Architecture("qwen2", Decoder, hugging_face(config_from_hf), gguf("qwen2"))
