"""DeepSeek-MoE: Llama with experts after the first layers, and shared ones (https://arxiv.org/abs/2401.06066).

The model of 16 billion parameters has `model_type` deepseek. Later DeepSeek models have another attention.
"""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import hf_config, hugging_face
from roseinfer.models.dialect import Architecture, WeightPlaces
from roseinfer.models.expert_dialects import moe_hf_weight
from roseinfer.models.experts_spec import ExpertsSpec
from roseinfer.models.fields import optional, require_feature, size
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a DeepSeek-MoE config.json to a ModelConfig."""
    raw = {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, **raw}
    bias = optional(raw, "attention_bias", bool, False)
    return hf_config("deepseek", raw, qkv_bias=bias, output_bias=bias, experts=_experts(raw))


def _experts(raw: Mapping[str, Any]) -> ExpertsSpec | None:
    """Return the experts of the layers from `first_k_dense_replace` on. Shared experts are one expert, wider."""
    if raw.get("n_routed_experts") is None:
        return None
    require_feature("scoring_func", raw.get("scoring_func", "softmax"), "softmax")
    width, num_layers = size(raw, "moe_intermediate_size"), size(raw, "num_hidden_layers")
    first, step = optional(raw, "first_k_dense_replace", int, 0), size(raw, "moe_layer_freq", 1)
    return ExpertsSpec(
        num_experts=size(raw, "n_routed_experts"),
        top_k=size(raw, "num_experts_per_tok"),
        intermediate_size=width,
        normalized=optional(raw, "norm_topk_prob", bool, False),
        shared_size=width * optional(raw, "n_shared_experts", int, 0),
        dense_layers=tuple(index for index in range(num_layers) if index < first or index % step),
    )


def hf_weight(name: str, config: ModelConfig) -> WeightPlaces | None:
    """Return the place of a stored tensor."""
    return moe_hf_weight(name.replace(".mlp.shared_experts.", ".mlp.shared_expert."), config)


DEEPSEEK = Architecture("deepseek", Decoder, hugging_face(config_from_hf, hf_weight))
