"""EXAONE 3.0 and 3.5: Llama with weights named as in GPT-2 (LG AI Research, 2024, https://arxiv.org/abs/2408.03541)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hf_weight, hugging_face, renamed
from roseinfer.models.dialect import Architecture, WeightPlace
from roseinfer.models.fields import size
from roseinfer.models.model_config import ModelConfig

_NAMES = {
    "transformer.wte.": "model.embed_tokens.",
    "transformer.ln_f.": "model.norm.",
    "transformer.h.": "model.layers.",
    ".ln_1.": ".input_layernorm.",
    ".ln_2.": ".post_attention_layernorm.",
    ".attn.attention.out_proj.": ".self_attn.o_proj.",
    ".attn.attention.": ".self_attn.",
    ".mlp.c_fc_0.": ".mlp.gate_proj.",
    ".mlp.c_fc_1.": ".mlp.up_proj.",
    ".mlp.c_proj.": ".mlp.down_proj.",
}


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert an EXAONE config.json to a ModelConfig."""
    layers = size({"num_layers": raw.get("num_layers", raw.get("num_hidden_layers", 32))}, "num_layers")
    width = size(raw, "intermediate_size", 4 * size(raw, "hidden_size"))
    raw = {**raw, "num_hidden_layers": layers, "intermediate_size": width}
    return hf_config("exaone", raw, norm_eps="layer_norm_epsilon", activation="activation_function", tied=True)


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map. Rotary frequencies are skipped."""
    return None if hf_weight(name, config) is None or ".rotary." in name else (renamed(name, _NAMES), None)


EXAONE = Architecture("exaone", Decoder, hugging_face(config_from_hf, weight_from_hf), gguf("exaone"))
