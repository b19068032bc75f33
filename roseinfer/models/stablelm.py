"""StableLM: Llama with layer norms and partly rotated heads (Bellagente et al., 2024, https://arxiv.org/abs/2402.17834)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face, reordered_qk
from roseinfer.models.dialect import Architecture, Checkpoint
from roseinfer.models.fields import optional, require_feature
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a StableLM config.json to a ModelConfig."""
    require_feature("qk_layernorm", optional(raw, "qk_layernorm", bool, False), False)
    parallel = optional(raw, "use_parallel_residual", bool, False)
    return hf_config(
        "stablelm",
        raw,
        rope=rope_from_hf(raw, partial=0.25),
        norm_eps="layer_norm_eps",
        norm="layer",
        norm_bias=True,
        block="parallel" if parallel else "pre_norm",
        shared_norm=parallel,
        qkv_bias=optional(raw, "use_qkv_bias", bool, False),
    )


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with the place of attention and MLP. Files with norms of queries and keys are refused."""
    parallel = "blk.0.ffn_norm.weight" not in checkpoint.tensor_names
    return msgspec.structs.replace(config, block="parallel" if parallel else "pre_norm", shared_norm=parallel)


STABLELM = Architecture(
    "stablelm",
    Decoder,
    hugging_face(config_from_hf, reordered_qk(interleaved=False)),
    gguf("stablelm", rotates_part=True, adapt=config_from_gguf, norm="layer", norm_bias=True),
)
