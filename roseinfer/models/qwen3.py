"""Qwen3: Llama with QK-norm, and a head size independent of the hidden size (https://arxiv.org/abs/2505.09388)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face, with_windows
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.qwen2 import qwen_windows


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Qwen3 config.json to a ModelConfig."""
    bias = optional(raw, "attention_bias", bool, False)
    config = hf_config(
        "qwen3",
        raw,
        head_dim=size(raw, "head_dim", 128),
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
    )
    return with_windows(config, qwen_windows(raw))


QWEN3 = Architecture("qwen3", Decoder, hugging_face(config_from_hf), gguf("qwen3", qk_norm=True))
