"""Mistral 7B: Llama with a sliding window in every layer (Jiang et al., 2023, https://arxiv.org/abs/2310.06825)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import hf_config, hf_sliding_window, hugging_face
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import require
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Mistral config.json to a ModelConfig.

    A missing sliding_window means 4096, the default in transformers; null means no window.
    """
    window = (
        None
        if raw.get("sliding_window", 4096) is None
        else require({"sliding_window": 4096, **raw}, "sliding_window", int)
    )
    return hf_config("mistral", raw, sliding_window=hf_sliding_window(raw, window, first_layer=0))


MISTRAL = Architecture("mistral", Decoder, hugging_face(config_from_hf))
