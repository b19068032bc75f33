"""Granite 3: Llama with factors on embeddings, attention scores, residual additions and logits (IBM, 2024)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face
from roseinfer.models.dialect import Architecture, Checkpoint
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
    return config.with_attention(lambda _, spec: msgspec.structs.replace(spec, scale=scale))


def granite_from_gguf(prefix: str, config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with the factors in the metadata of the file, whose keys begin with `prefix`."""
    metadata = checkpoint.fields
    scale = optional(metadata, f"{prefix}.attention.scale", float, config.head_dim**-0.5)
    config = config.with_attention(lambda _, spec: msgspec.structs.replace(spec, scale=scale))
    return msgspec.structs.replace(
        config,
        embedding_scale=optional(metadata, f"{prefix}.embedding_scale", float, 1.0),
        residual_scale=optional(metadata, f"{prefix}.residual_scale", float, 1.0),
        logit_scale=1.0 / optional(metadata, f"{prefix}.logit_scale", float, 1.0),
    )


GRANITE = Architecture(
    "granite",
    Decoder,
    hugging_face(config_from_hf),
    gguf("granite", reorders_qk=True, adapt=partial(granite_from_gguf, "granite"), block="scaled"),
)
