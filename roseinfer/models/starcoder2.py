"""StarCoder2: layer norms, biases and an MLP without a gate (Lozhkov et al., 2024, https://arxiv.org/abs/2402.19173)."""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hf_weight, hugging_face
from roseinfer.models.dialect import Architecture, WeightPlace
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a StarCoder2 config.json to a ModelConfig."""
    bias = optional(raw, "use_bias", bool, True)
    return hf_config(
        "starcoder2",
        raw,
        norm_eps="norm_epsilon",
        default_activation="gelu_pytorch_tanh",
        activations=("gelu_tanh", "gelu"),
        tied=True,
        norm="layer",
        norm_bias=True,
        gated_mlp=False,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bias,
        sliding_window=optional(raw, "sliding_window", int, 0) or None,
    )


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map: the MLP's matrices have GPT-2's names in checkpoints."""
    return hf_weight(name.replace(".mlp.c_fc.", ".mlp.up_proj.").replace(".mlp.c_proj.", ".mlp.down_proj."), config)


STARCODER2 = Architecture(
    "starcoder2",
    Decoder,
    hugging_face(config_from_hf, weight_from_hf),
    gguf("starcoder2", norm="layer", norm_bias=True, gated_mlp=False, activation="gelu_tanh"),
)
