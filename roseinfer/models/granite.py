"""Granite 3: Llama with factors on embeddings, attention scores, residual additions and logits (IBM, 2024)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Granite config.json to a ModelConfig."""
    bias = optional(raw, "attention_bias", bool, False)
    config = hf_config(
        "granite",
        raw,
        block="scaled",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=optional(raw, "mlp_bias", bool, False),
        embedding_scale=optional(raw, "embedding_multiplier", float, 1.0),
        residual_scale=optional(raw, "residual_multiplier", float, 1.0),
        logit_scale=1.0 / optional(raw, "logits_scaling", float, 1.0),
    )
    scale = optional(raw, "attention_multiplier", float, 1.0)
    specs = tuple(msgspec.structs.replace(spec, scale=scale) for spec in config.attention_specs)
    return msgspec.structs.replace(config, layer_attention=specs)


GRANITE = Architecture("granite", Decoder, hugging_face(config_from_hf))
