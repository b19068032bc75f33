"""GPT-NeoX and Pythia: attention and MLP side by side, layer norms, partly rotated heads, one matrix per head group.

Black et al., 2022, https://arxiv.org/abs/2204.06745.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from torch import Tensor

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face, renamed
from roseinfer.models.dialect import Architecture, Checkpoint, Transform, WeightPlace
from roseinfer.models.fields import optional, size
from roseinfer.models.head_layout import reordered_projection
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf

_NAMES = {
    "gpt_neox.embed_in.": "model.embed_tokens.",
    "gpt_neox.final_layer_norm.": "model.norm.",
    "gpt_neox.layers.": "model.layers.",
    "embed_out.": "lm_head.",
    ".attention.query_key_value.": ".self_attn.qkv_proj.",
    ".attention.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}
_NO_WEIGHTS = (".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq")


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a GPT-NeoX config.json to a ModelConfig."""
    bias = optional(raw, "attention_bias", bool, True)
    theta = optional(raw, "rotary_emb_base", float, 10_000.0)
    return hf_config(
        "gpt_neox",
        raw,
        rope=rope_from_hf(raw, partial=0.25, default_theta=theta),
        num_kv_heads=size(raw, "num_attention_heads"),
        norm_eps="layer_norm_eps",
        default_activation="gelu",
        activations=("gelu", "gelu_tanh"),
        norm="layer",
        norm_bias=True,
        block="parallel" if optional(raw, "use_parallel_residual", bool, True) else "pre_norm",
        gated_mlp=False,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        stores_fused_qkv=True,
    )


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map, and the order of rows of the fused projection. Masks are skipped."""
    if name.endswith(_NO_WEIGHTS):
        return None
    name = renamed(name, _NAMES)
    return name, _separated(config) if ".qkv_proj." in name else None


def _separated(config: ModelConfig) -> Transform:
    """Return a transform to all queries, all keys, all values. Each head's three projections are stored together."""
    reorder = reordered_projection("qkv_proj", config, interleaved=False)

    def separated(rows: Tensor) -> Tensor:
        apart = rows.reshape(config.num_heads, 3, config.head_dim, *rows.shape[1:]).transpose(0, 1).flatten(0, 2)
        return apart if reorder is None else reorder(apart)

    return separated


def config_from_gguf(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """Return the config with the place of attention and MLP: side by side, or one after the other."""
    parallel = optional(checkpoint.fields, "gptneox.use_parallel_residual", bool, True)
    return msgspec.structs.replace(config, block="parallel" if parallel else "pre_norm")


GPT_NEOX = Architecture(
    "gpt_neox",
    Decoder,
    hugging_face(config_from_hf, weight_from_hf),
    gguf(
        "gptneox",
        architecture="gpt_neox",
        rotates_part=True,
        adapt=config_from_gguf,
        norm="layer",
        norm_bias=True,
        gated_mlp=False,
        activation="gelu",
        stores_fused_qkv=True,
    ),
    gguf_name="gptneox",
)
