"""Llama 2 and 3 (Touvron et al., 2023; https://arxiv.org/abs/2407.21783), and models of the same shape: SmolLM2."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Llama config.json to a ModelConfig."""
    bias = optional(raw, "attention_bias", bool, False)
    return hf_config("llama", raw, qkv_bias=bias, output_bias=bias, mlp_bias=optional(raw, "mlp_bias", bool, False))


# GGUF files of Mistral and Mixtral also have the architecture "llama".
LLAMA = Architecture("llama", Decoder, hugging_face(config_from_hf), gguf("llama", reorders_qk=True, experts={}))
