"""Baichuan 1 and 2, the 7B models: Llama with fused projections, and in Baichuan 2 a head of normalized rows.

Yang et al., 2023, https://arxiv.org/abs/2309.10305. The 13B models have ALiBi instead of rotary positions.
"""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F

from roseinfer.errors import ModelError
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hf_weight, hugging_face, renamed
from roseinfer.models.dialect import Architecture, Checkpoint, WeightPlace
from roseinfer.models.model_config import ModelConfig

_VOCABULARY_OF_2 = 125_696
"""Vocabulary size of Baichuan 2, by which its own code and vLLM know it."""
_LAYERS_OF_13B = 40
_ALIBI = "ALiBi positions, which the 13B models of Baichuan have, are not supported; supported: rotary positions (7B)"


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Baichuan config.json to a ModelConfig. Raises ModelError for the 13B models."""
    # Configs of models with ALiBi have no max_position_embeddings, only the tokenizer's model_max_length.
    if raw.get("model_max_length") is not None and raw.get("max_position_embeddings") is None:
        raise ModelError(_ALIBI)
    raw = {"max_position_embeddings": 4096, **raw}
    return hf_config("baichuan", raw, stores_fused_qkv=True)


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map. Baichuan 2 normalizes the rows of its head to a length of 1."""
    if hf_weight(name, config) is None:
        return None
    if name == "lm_head.weight" and config.vocab_size == _VOCABULARY_OF_2:
        return name, lambda weight: F.normalize(weight, dim=1)
    return renamed(name, {".self_attn.W_pack.": ".self_attn.qkv_proj."}), None


def config_from_gguf(config: ModelConfig, _checkpoint: Checkpoint) -> ModelConfig:
    """Return the config. Raises ModelError for the 13B models, which llama.cpp knows by their number of layers."""
    if config.num_layers == _LAYERS_OF_13B:
        raise ModelError(_ALIBI)
    return config


BAICHUAN = Architecture(
    "baichuan",
    Decoder,
    hugging_face(config_from_hf, weight_from_hf),
    gguf("baichuan", reorders_qk=True, adapt=config_from_gguf),
)
