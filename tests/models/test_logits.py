"""Tests that logits agree with transformers: for whole prompts, chunked prompts, decoding and mixed batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stepping import run_traced
from tiny import save_gpt2, save_llama

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine

pytestmark = pytest.mark.usefixtures("single_threaded")

PROMPTS = ["a", "some words", "a prompt that is longer than two or three blocks", "of four"]

SAVED: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "llama, grouped queries": (save_llama, {}),
    "llama, a head for every query": (save_llama, {"num_key_value_heads": 4}),
    "llama, one head for all queries": (save_llama, {"num_key_value_heads": 1}),
    "llama, tied head": (save_llama, {"tie_word_embeddings": True}),
    "llama, head_dim apart from hidden size": (save_llama, {"head_dim": 12}),
    "llama, attention bias": (save_llama, {"attention_bias": True}),
    "llama, MLP bias": (save_llama, {"mlp_bias": True}),
    "llama, other theta and norm": (save_llama, {"rope_theta": 500.0, "rms_norm_eps": 0.1}),
    "gpt2": (save_gpt2, {}),
    "gpt2, untied head and narrow MLP": (save_gpt2, {"tie_word_embeddings": False, "n_inner": 40}),
    "gpt2, other norm": (save_gpt2, {"layer_norm_epsilon": 0.1}),
}


@pytest.fixture(scope="module", params=SAVED)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save a tiny random model; return its directory, and the same model in transformers."""
    from transformers import AutoModelForCausalLM

    save, changes = SAVED[request.param]
    folder = save(tmp_path_factory.mktemp("saved"), **changes)
    return folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def engine_of(folder: Path, **settings: Any) -> Engine:
    # No prefix cache, so that every position of every request is computed.
    return build_engine(EngineConfig(model=str(folder), dtype="float32", device="cpu", prefix_cache=False, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_batch_tokens": 7, "block_size": 4},
        {"max_batch_size": 3, "max_batch_tokens": 20, "block_size": 1},
        {"attention": "gather", "max_batch_tokens": 20, "block_size": 4},
    ],
    ids=["whole prompts", "chunked prompts", "mixed steps", "gathered blocks"],
)
def test_logits_equal_transformers_at_every_position(saved: tuple[Path, Any], settings: dict[str, Any]) -> None:
    folder, oracle = saved
    params = SamplingParams(max_new_tokens=12, stop_on_eos=False)
    for traced in run_traced(engine_of(folder, **settings), PROMPTS, params):
        with torch.inference_mode():
            expected = oracle(torch.tensor([traced.token_ids[:-1]])).logits[0]
        assert expected.std() > 0.1  # nearly equal logits would prove nothing
        assert (traced.logits - expected).abs().max() < 1e-4


def test_parameters_are_counted_as_transformers_counts_them(saved: tuple[Path, Any]) -> None:
    folder, oracle = saved
    assert engine_of(folder).num_parameters == oracle.num_parameters()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_a_model_computes_in_the_dtype_that_was_asked_for(tiny_llama: Path, dtype: Any) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype=dtype, device="cpu"))
    assert {str(p.dtype) for p in engine.runner.model.parameters()} == {f"torch.{dtype}"}
    (traced,) = run_traced(engine, ["some words"], SamplingParams(max_new_tokens=3, stop_on_eos=False))
    assert traced.logits.dtype == getattr(torch, dtype)
    exact = build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu"))
    (expected,) = run_traced(exact, ["some words"], SamplingParams(max_new_tokens=1))
    tolerance = {"bfloat16": 0.3, "float16": 0.05, "float32": 1e-4, "float64": 0.0}[dtype]
    prompt_positions = len("some words")
    assert (traced.logits[:prompt_positions].double() - expected.logits).abs().max() <= tolerance
