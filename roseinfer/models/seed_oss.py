"""Seed-OSS: Llama with biases on queries, keys and values (ByteDance Seed, 2025)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Seed-OSS config.json to a ModelConfig."""
    return hf_config(
        "seed_oss",
        raw,
        head_dim=size(raw, "head_dim", 128),
        qkv_bias=optional(raw, "attention_bias", bool, True),
        output_bias=optional(raw, "attention_out_bias", bool, False),
        mlp_bias=optional(raw, "mlp_bias", bool, False),
    )


SEED_OSS = Architecture(
    "seed_oss",
    Decoder,
    hugging_face(config_from_hf),
    gguf("seed_oss", names={"post_attention_norm": "post_attention_layernorm"}),
)
