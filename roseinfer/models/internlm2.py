"""InternLM2 and InternLM2.5: Llama whose checkpoints store query, key and value projection as one tensor.

Cai et al., 2024, https://arxiv.org/abs/2403.17297.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hf_weight, hugging_face, renamed
from roseinfer.models.dialect import Architecture, WeightPlace
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig

_NAMES = {
    "model.tok_embeddings.": "model.embed_tokens.",
    "output.": "lm_head.",
    ".attention.wqkv.": ".self_attn.qkv_proj.",
    ".attention.wo.": ".self_attn.o_proj.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
}


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert an InternLM2 config.json to a ModelConfig."""
    bias = optional(raw, "bias", bool, True)
    return hf_config("internlm2", raw, qkv_bias=bias, output_bias=bias, stores_fused_qkv=True)


def weight_from_hf(name: str, config: ModelConfig) -> WeightPlace | None:
    """Return the name in the weight map, and the order of rows of the fused projection."""
    if hf_weight(name, config) is None:
        return None
    name = renamed(name, _NAMES)
    if ".qkv_proj." not in name:
        return name, None
    sharing = config.num_heads // config.num_kv_heads

    def separated(rows: Tensor) -> Tensor:
        # Each key head is stored with the query heads that share it: these queries, the key, the value.
        groups = rows.reshape(config.num_kv_heads, sharing + 2, config.head_dim, *rows.shape[1:])
        return torch.cat([part.flatten(0, 2) for part in (groups[:, :sharing], groups[:, -2:-1], groups[:, -1:])])

    return name, separated


INTERNLM2 = Architecture(
    "internlm2", Decoder, hugging_face(config_from_hf, weight_from_hf), gguf("internlm2", reorders_qk=True)
)
