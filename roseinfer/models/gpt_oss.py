"""gpt-oss: experts with biases and a clamped activation, attention sinks, windows in every second layer.

OpenAI, 2025, https://arxiv.org/abs/2508.10925. Published checkpoints store the experts in MXFP4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.kernels.activations import SWIGLU_ALPHA, SWIGLU_LIMIT
from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import FULL, SLIDING, gguf, hf_config, hf_windows, hugging_face, with_windows
from roseinfer.models.dialect import Architecture, Checkpoint, WeightPlace, WeightPlaces
from roseinfer.models.expert_dialects import mixtral_experts, moe_hf_weight
from roseinfer.models.fields import optional, require_feature, size
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf

_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "head_dim": 64,
    "num_key_value_heads": 8,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
}
_PARTS = ("gate_proj", "up_proj")


@dataclass(frozen=True)
class ExpertPart:
    """Transform that cuts one expert's gate, up or down projection out of a tensor of all experts."""

    expert: int
    num_experts: int
    first: int
    step: int
    """Gate and up are every second row: 2. Down: 1."""
    stored_transposed: bool = False
    """The matrices are [inputs, outputs] each."""

    def __call__(self, stored: Tensor) -> Tensor:
        """Return [outputs, inputs] of a matrix, or [outputs] of a bias.

        Raises RuntimeError for a tensor of another number of experts.
        """
        if stored.dim() < 2 or len(stored) != self.num_experts:
            raise RuntimeError(f"not {self.num_experts} experts")
        own = stored[self.expert]
        return (own.t() if self.stored_transposed else own)[self.first :: self.step]


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a gpt-oss config.json to a ModelConfig."""
    raw = _DEFAULTS | dict(raw)
    if raw.get("rope_parameters") is None and raw.get("rope_scaling") is None:
        raw["rope_scaling"] = _YARN
    require_feature("swiglu_alpha", optional(raw, "swiglu_alpha", float, SWIGLU_ALPHA), SWIGLU_ALPHA)
    require_feature("swiglu_limit", optional(raw, "swiglu_limit", float, SWIGLU_LIMIT), SWIGLU_LIMIT)
    bias = optional(raw, "attention_bias", bool, True)
    config = hf_config(
        "gpt_oss",
        raw,
        rope=rope_from_hf(raw, default_theta=150_000.0),
        qkv_bias=bias,
        output_bias=bias,
        experts=mixtral_experts(raw, bias=True),
    )
    kinds = _alternating(size(raw, "num_hidden_layers"))
    return _finished(with_windows(config, hf_windows(raw, size(raw, "sliding_window", 128), kinds)))


def _alternating(num_layers: int) -> list[str]:
    return [FULL if index % 2 else SLIDING for index in range(num_layers)]


def _finished(config: ModelConfig) -> ModelConfig:
    """Return the config with what all of these models have: sinks, and the activation of their experts."""
    config = config.with_attention(lambda _, spec: msgspec.structs.replace(spec, sinks=True))
    return msgspec.structs.replace(config, activation="clamped_swiglu")


def config_from_gguf(config: ModelConfig, _checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with a window in every second layer, beginning with the first."""
    if config.experts is None:
        raise ModelError("a gpt-oss file without experts is not supported")
    window = config.sliding_window or 128
    windows = [window if kind == SLIDING else None for kind in _alternating(config.num_layers)]
    return _finished(with_windows(config, windows))


def hf_weight(name: str, config: ModelConfig) -> WeightPlaces | None:
    """Return the place of a stored tensor.

    `*_blocks` are MXFP4 matrices [experts, outputs, inputs], which the reader dequantizes. Tensors without that end
    hold matrices [experts, inputs, outputs]. Gate and up have every second output.
    """
    module, separator, rest = name.partition(".mlp.experts.")
    if not separator:
        return moe_hf_weight(name, config)
    assert config.experts is not None
    prefix, num_experts = f"{module}.mlp.experts", config.experts.num_experts
    projection, _, kind = rest.replace("_proj_", "_proj ").partition(" ")
    if kind not in ("", "blocks", "bias") or projection not in ("gate_up_proj", "down_proj"):
        return name, None  # unknown, so loading refuses it by this name
    names = _PARTS if projection == "gate_up_proj" else ("down_proj",)
    places: list[WeightPlace] = []
    for expert in range(num_experts):
        for first, part in enumerate(names):
            cut = ExpertPart(expert, num_experts, first, len(names), stored_transposed=kind == "")
            places.append((f"{prefix}.{expert}.{part}.{'bias' if kind == 'bias' else 'weight'}", cut))
    return places


GPT_OSS = Architecture(
    "gpt_oss",
    Decoder,
    replace(hugging_face(config_from_hf, hf_weight), quantizations=("mxfp4",)),
    gguf(
        "gpt-oss",
        architecture="gpt_oss",
        names={"attn_sinks": "self_attn", "post_attention_norm": "post_attention_layernorm"},
        experts={"bias": True},
        adapt=config_from_gguf,
    ),
    gguf_name="gpt-oss",
)
