"""Mixtral: Mistral with experts in every layer (Jiang et al., 2024, https://arxiv.org/abs/2401.04088).

GGUF files call the architecture llama.
"""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.expert_dialects import mixtral_experts, moe_hf_weight
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Mixtral config.json to a ModelConfig."""
    raw = {"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "num_key_value_heads": 8, **raw}
    return hf_config(
        "mixtral",
        raw,
        rope=rope_from_hf(raw, default_theta=1_000_000.0),
        sliding_window=optional(raw, "sliding_window", int, 0) or None,
        experts=mixtral_experts(raw),
    )


MIXTRAL = Architecture("mixtral", Decoder, hugging_face(config_from_hf, moe_hf_weight))
