"""Qwen2-MoE: Qwen2 with experts in most layers, one of which every token uses (https://arxiv.org/abs/2407.10671)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face, with_windows
from roseinfer.models.dialect import Architecture
from roseinfer.models.expert_dialects import moe_hf_weight, qwen_experts
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.qwen2 import qwen_windows


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Qwen2-MoE config.json to a ModelConfig."""
    raw = {"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 16, **raw}
    shared = size(raw, "shared_expert_intermediate_size")
    config = hf_config(
        "qwen2_moe",
        raw,
        qkv_bias=optional(raw, "qkv_bias", bool, True),
        experts=qwen_experts(raw, shared_size=shared, shared_gate=True),
    )
    return with_windows(config, qwen_windows(raw))


QWEN2_MOE = Architecture(
    "qwen2_moe",
    Decoder,
    hugging_face(config_from_hf, moe_hf_weight),
    gguf("qwen2moe", architecture="qwen2_moe", experts={"normalized": False, "shared_gate": True}),
    gguf_name="qwen2moe",
)
