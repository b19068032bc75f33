"""Tests that a checkpoint that does not fit its architecture is refused, with the misfit named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import edit_json, save_gpt2, save_llama

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return save_llama(tmp_path)


def build(folder: Path, **settings: Any) -> Engine:
    return build_engine(EngineConfig(model=str(folder), dtype="float32", device="cpu", **settings))


def greedy(folder: Path, **settings: Any) -> list[int]:
    return build(folder, **settings).generate(["some words"], SamplingParams(max_new_tokens=8))[0].token_ids


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_missing_weight_is_named(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        build(llama)


def test_a_weight_of_no_use_is_named(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.update({"model.layers.0.extra.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"model\.layers\.0\.extra\.weight"):
        build(llama)


def test_a_weight_of_another_shape_is_named_with_both_shapes(llama: Path) -> None:
    edit_weights(llama, lambda weights: weights.update({"model.norm.weight": torch.zeros(31)}))
    with pytest.raises(ModelError, match=r"model\.norm\.weight has shape \(31,\).*\(32,\)"):
        build(llama)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "'mamba' is not supported; supported: .*gpt2.*llama"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"vocab_size": 100}, "258"),
    ],
)
def test_a_config_that_is_not_supported_is_named(llama: Path, changes: dict[str, Any], named: str) -> None:
    edit_json(llama / "config.json", **changes)
    with pytest.raises(ModelError, match=named):
        build(llama)


def test_a_tied_head_that_was_saved_all_the_same_is_no_error(tmp_path: Path) -> None:
    folder = save_llama(tmp_path, tie_word_embeddings=True)
    expected = greedy(folder)
    edit_weights(folder, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()}))
    assert greedy(folder) == expected


def test_a_bare_gpt2_checkpoint_needs_no_prefix(tmp_path: Path) -> None:
    folder = save_gpt2(tmp_path)
    expected = greedy(folder)

    def as_in_the_first_release(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        weights["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    edit_weights(folder, as_in_the_first_release)
    assert greedy(folder) == expected


def test_dummy_weights_depend_on_the_seed_alone(llama: Path) -> None:
    tokens = {seed: greedy(llama, load_format="dummy", seed=seed) for seed in (0, 1)}
    assert tokens[0] != tokens[1]
    assert greedy(llama, load_format="dummy", seed=1) == tokens[1]


def test_progress_runs_up_to_all_bytes(llama: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_engine(EngineConfig(model=str(llama)), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0
