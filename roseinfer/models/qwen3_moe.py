"""Qwen3-MoE: Qwen3 with experts in most layers (https://arxiv.org/abs/2505.09388)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.expert_dialects import moe_hf_weight, qwen_experts
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Qwen3-MoE config.json to a ModelConfig."""
    raw = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 4, **raw}
    bias = optional(raw, "attention_bias", bool, False)
    window = optional(raw, "sliding_window", int, 4096) if optional(raw, "use_sliding_window", bool, False) else None
    return hf_config(
        "qwen3_moe",
        raw,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
        sliding_window=window,
        experts=qwen_experts(raw),
    )


QWEN3_MOE = Architecture(
    "qwen3_moe",
    Decoder,
    hugging_face(config_from_hf, moe_hf_weight),
    gguf("qwen3moe", architecture="qwen3_moe", experts={"normalized": True}, qk_norm=True),
    gguf_name="qwen3moe",
)
