"""Phi-3, Phi-3.5 and Phi-4: Llama with fused projections, LongRoPE, and partly rotated heads in Phi-4-mini.

Abdin et al., 2024, https://arxiv.org/abs/2404.14219.
"""

from collections.abc import Mapping
from typing import Any

from roseinfer.models.decoder import Decoder
from roseinfer.models.decoder_dialects import gguf, hf_config, hugging_face, reordered_qk
from roseinfer.models.dialect import Architecture
from roseinfer.models.fields import optional
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.rope_config import rope_from_hf


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert a Phi-3 config.json to a ModelConfig."""
    return hf_config(
        "phi3",
        raw,
        rope=rope_from_hf(raw, partial=1.0),
        sliding_window=optional(raw, "sliding_window", int, 0) or None,
        stores_fused_qkv=True,
        stores_fused_gate_up=True,
    )


PHI3 = Architecture(
    "phi3",
    Decoder,
    hugging_face(config_from_hf, reordered_qk(interleaved=False)),
    gguf(
        "phi3",
        rotates_part=True,
        names={"ffn_up": "mlp.gate_up_proj"},
        stores_fused_qkv=True,
        stores_fused_gate_up=True,
    ),
)
