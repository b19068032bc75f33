"""GLM-4 (0414): norms before and after attention and MLP, half of each head rotated, neighbors as rotary pairs.

Team GLM, 2024, https://arxiv.org/abs/2406.12793.
"""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import GGUF_SANDWICH, gguf, hf_config, hugging_face, reordered_qk
from roseinfer.models.dialect import Architecture, WeightPlaces
from roseinfer.models.fields import optional, size
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf

_NAMES = {
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "post_self_attn_layernorm": "post_attention_layernorm",
    "post_mlp_layernorm": "post_feedforward_layernorm",
}
"""Gemma's names of the norms, which the weight map has, by GLM's."""

_reordered = reordered_qk(interleaved=True)


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a GLM-4 config.json to a ModelConfig."""
    return hf_config(
        "glm4",
        raw,
        rope=rope_from_hf(raw, partial=0.5),
        head_dim=size(raw, "head_dim", 128),
        block="sandwich",
        qkv_bias=optional(raw, "attention_bias", bool, True),
        stores_fused_gate_up=True,
    )


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlaces | None:
    """Return the name in the weight map, and the order of rows of queries and keys."""
    parts = name.split(".")
    return _reordered(".".join(_NAMES.get(part, part) for part in parts), config)


GLM4 = Architecture(
    "glm4",
    Decoder,
    hugging_face(config_from_hf, weight_from_hf),
    gguf(
        "glm4",
        reorders_qk=True,
        rotates_part=True,
        names={**GGUF_SANDWICH, "ffn_up": "mlp.gate_up_proj"},
        block="sandwich",
        stores_fused_gate_up=True,
    ),
)
