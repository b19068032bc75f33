"""OLMoE: Llama with experts in every layer, and norms over all query and all key heads.

Muennighoff et al., 2024, https://arxiv.org/abs/2409.02060.
"""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.expert_dialects import mixtral_experts, moe_hf_weight
from roseinfer.models.fields import optional, require_feature, size
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert an OLMoE config.json to a ModelConfig."""
    raw = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, **raw}
    require_feature("clip_qkv", raw.get("clip_qkv"), None)
    bias = optional(raw, "attention_bias", bool, False)
    experts = mixtral_experts(
        {"num_local_experts": size(raw, "num_experts", 64), "num_experts_per_tok": 8, **raw},
        normalized=optional(raw, "norm_topk_prob", bool, False),
    )
    return hf_config("olmoe", raw, qkv_bias=bias, output_bias=bias, joint_qk_norm=True, experts=experts)


OLMOE = Architecture(
    "olmoe",
    Decoder,
    hugging_face(config_from_hf, moe_hf_weight),
    gguf("olmoe", experts={"normalized": False}, joint_qk_norm=True),
)
