"""Mistral: Llama with a sliding window in every layer (Jiang et al., 2023, https://arxiv.org/abs/2310.06825).

Ministral has a window in some layers only, which `layer_types` names.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import FULL, SLIDING, hf_config, hf_windows, hugging_face, with_windows
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import require, size
from roseinfer.models.model_config import ModelConfig


def config_from_hf(name: str, raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a config.json of Mistral or Ministral to a ModelConfig.

    A missing sliding_window means 4096, the default in transformers; null means no window.
    """
    window = (
        None
        if raw.get("sliding_window", 4096) is None
        else require({"sliding_window": 4096, **raw}, "sliding_window", int)
    )
    default = FULL if window is None else SLIDING
    windows = hf_windows(raw, window, [default] * size(raw, "num_hidden_layers"))
    return with_windows(hf_config(name, raw), windows)


MISTRAL = Architecture("mistral", Decoder, hugging_face(partial(config_from_hf, "mistral")))
MINISTRAL = Architecture("ministral", Decoder, hugging_face(partial(config_from_hf, "ministral")))
