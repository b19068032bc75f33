"""A config.json without a field means what it means to transformers."""

import json
from typing import Any

import pytest
from architecture_models import MODELS
from transformers import AutoConfig

from roseinfer.errors import ModelError
from roseinfer.models.architectures import read_config
from roseinfer.models.dialect import Checkpoint
from roseinfer.models.model_config import ModelConfig

SIZES = {
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "n_embd",
    "n_layer",
    "n_head",
}
"""Fields that a config.json must have."""
KINDS = sorted({name.partition(",")[0] for name in MODELS})
WITH_EXPERTS_SIZES = {"qwen2_moe", "qwen3_moe"}
"""Architectures whose config.json must have sizes of experts too."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITH_EXPERTS_SIZES])
def test_missing_fields_have_the_defaults_of_transformers(kind: str) -> None:
    full = AutoConfig.for_model(kind).to_dict()
    expected = described(full)
    assert described({key: value for key, value in full.items() if key in SIZES}) == expected
    for missing in full.keys() - SIZES:
        found = described({key: value for key, value in full.items() if key != missing})
        assert found == expected, f"without {missing}"


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text"])
def test_published_files_of_gemma_leave_sizes_out(kind: str) -> None:
    full = AutoConfig.for_model(kind).to_dict()
    assert described({"model_type": kind}) == described(full)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "starcoder2"])
def test_sizes_must_be_in_the_file(kind: str) -> None:
    full = AutoConfig.for_model(kind).to_dict()
    for missing in full.keys() & SIZES - {"model_type"}:
        with pytest.raises(ModelError, match=f"needs {missing} as int, but it is missing"):
            described({key: value for key, value in full.items() if key != missing})


def test_null_key_value_heads_are_as_many_as_query_heads() -> None:
    full = AutoConfig.for_model("mistral").to_dict() | {"num_key_value_heads": None}
    assert described(full).num_kv_heads == full["num_attention_heads"]


def described(raw: dict[str, Any]) -> ModelConfig:
    """Return the shape read from the fields of a config.json."""
    return read_config("safetensors", Checkpoint(json.loads(json.dumps(raw))))
