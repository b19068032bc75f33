"""Architectures by name, and built-in shapes."""

from collections.abc import Collection, Mapping
from typing import Any

from roseinfer.errors import ModelError
from roseinfer.models.base import Architecture
from roseinfer.models.config import ModelConfig
from roseinfer.models.gpt2 import GPT2_ARCHITECTURE
from roseinfer.models.llama import LLAMA

_ARCHITECTURES = {architecture.name: architecture for architecture in (LLAMA, GPT2_ARCHITECTURE)}

SHAPES: dict[str, ModelConfig] = {
    "gpt2": ModelConfig(
        architecture="gpt2",
        vocab_size=50257,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        intermediate_size=3072,
        max_position_embeddings=1024,
        norm_eps=1e-5,
        tie_word_embeddings=True,
    ),
}
"""Shapes that `load_format="dummy"` builds by name."""


def architecture(name: str) -> Architecture:
    """The architecture called `name`, which is also its Hugging Face model_type and its GGUF name."""
    found = _ARCHITECTURES.get(name)
    if found is None:
        raise ModelError(f"architecture {name!r} is not supported; supported: {', '.join(sorted(_ARCHITECTURES))}")
    return found


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """A model's shape from its config.json."""
    return architecture(str(raw.get("model_type"))).config_from_hf(raw)


def config_from_gguf(metadata: Mapping[str, Any], tensor_names: Collection[str]) -> ModelConfig:
    """A model's shape from GGUF metadata and the names of the file's tensors."""
    return architecture(str(metadata.get("general.architecture"))).config_from_gguf(metadata, tensor_names)
