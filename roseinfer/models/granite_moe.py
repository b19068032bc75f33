"""Granite 3 MoE: Granite with experts in every layer, and a shared one in some models (IBM, 2024)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hugging_face
from roseinfer.models.dialect import Architecture, WeightPlaces
from roseinfer.models.expert_dialects import mixtral_experts, moe_hf_weight, shared_mlp_places
from roseinfer.models.fields import optional
from roseinfer.models.granite import config_from_hf as granite_from_hf
from roseinfer.models.granite import granite_from_gguf
from roseinfer.models.model_config import ModelConfig


def config_from_hf(name: str, raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a config.json of Granite-MoE, or of its variant with a shared expert, to a ModelConfig."""
    raw = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, **raw}
    shared = optional(raw, "shared_intermediate_size", int, 0)
    experts = mixtral_experts(raw, shared_size=shared)
    return msgspec.structs.replace(granite_from_hf(raw), architecture=name, experts=experts)


def hf_weight(name: str, config: ModelConfig) -> WeightPlaces | None:
    """Return the place of a stored tensor. Granite stores all experts, and gate and up, as one tensor."""
    shared = None if config.experts is None else shared_mlp_places(name, config.experts)
    return moe_hf_weight(name, config) if shared is None else shared


GRANITE_MOE = Architecture(
    "granitemoe",
    Decoder,
    hugging_face(partial(config_from_hf, "granitemoe"), hf_weight),
    gguf("granitemoe", reorders_qk=True, experts={}, adapt=partial(granite_from_gguf, "granitemoe"), block="scaled"),
)
GRANITE_MOE_SHARED = Architecture(
    "granitemoeshared", Decoder, hugging_face(partial(config_from_hf, "granitemoeshared"), hf_weight)
)
