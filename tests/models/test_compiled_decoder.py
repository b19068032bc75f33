"""A decoder whose decode steps are one compiled call agrees with the same decoder in torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_models import random_model, random_prompt
from native_builds import COMPILER, compiled_kernels_folder
from stepping import run_traced
from tiny import save_llama
from torch.profiler import ProfilerActivity, profile

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import UsageError
from roseinfer.kernels.cpu import native_library, native_step
from roseinfer.models.compiled_decoder import CompiledLayers
from roseinfer.models.expert_use import counted_choices

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
PROMPTS = ["some words", "x", "a longer one, past a block's end", "and another", "five", "six"]
PARAMS = SamplingParams(max_new_tokens=20, stop_on_eos=False)


@pytest.fixture(scope="module")
def cache_dir() -> Path:
    return compiled_kernels_folder()


@pytest.fixture(autouse=True)
def fresh(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(cache_dir))
    native_library.unload()
    yield
    native_library.unload()


def save(kind: str, folder: Path) -> Path:
    """Save a tiny model with the features that distinguish this architecture's layers."""
    if kind == "llama":
        return save_llama(folder, **SIZES)
    from transformers import AutoConfig, AutoModelForCausalLM

    save_llama(folder, **SIZES)  # saves the tokenizer
    window = {"sliding_window": 9} if kind == "mistral" else {}
    config = AutoConfig.for_model(
        kind, vocab_size=258, num_hidden_layers=2, max_position_embeddings=128, initializer_range=0.3, **SIZES, **window
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # biases start at 0 and norms at 1, which would hide a missing one
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    model.save_pretrained(folder)
    return folder


def engine_of(model: Path, **settings: Any) -> Engine:
    return build_engine(
        EngineConfig(
            **{"model": str(model), "dtype": "float32", "device": "cpu", "prefix_cache": False, "block_size": 4}
            | settings
        )
    )


def watch(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the rows of each step that runs its layers in one call, from now on."""
    rows, run = [], CompiledLayers.run
    monkeypatch.setattr(CompiledLayers, "run", lambda self, *rest: rows.append(len(rest[0])) or run(self, *rest))
    return rows


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_logits_equal_those_of_torch(kind: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(kind, tmp_path)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    calls = watch(monkeypatch)
    monkeypatch.setattr(native_step, "MAX_ROWS", 4)
    try:
        # Batches of three run in one call; batches of six run operation by operation.
        for batch in (1, 3, 6):
            calls.clear()
            native_library.unload()
            plain = run_traced(engine_of(folder, max_batch_size=batch, compile=False), PROMPTS, PARAMS)
            assert not calls
            compiled = run_traced(engine_of(folder, max_batch_size=batch, compile=True), PROMPTS, PARAMS)
            assert bool(calls) == (batch <= native_step.MAX_ROWS)
            for ours, expected in zip(compiled, plain, strict=True):
                assert ours.token_ids == expected.token_ids
                torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=2e-4)
    finally:
        torch.set_num_threads(before)


FAMILIES = [
    "cohere2",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "gpt_neox",
    "gpt_neox, one after the other",
    "granite",
    "granitemoe",
    "mixtral, sliding window, more experts per token",
    "olmo2",
    "olmoe",
    "phi3, partly rotated",
    "qwen3_moe",
    "qwen3_moe, an MLP in some layers",
    "smollm3",
    "stablelm, biases",
    "starcoder2, sliding window, no biases",
]
"""Models that differ in kinds of blocks, norms and activations, in scales, biases, rotated parts and experts."""


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "float32") for name in FAMILIES]
    + [(name, "bfloat16") for name in ("cohere2", "gemma2", "granite", "olmo2", "qwen3_moe")],
)
def test_every_kind_of_layer_runs_in_one_call(
    name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model(name, **SIZES | {"hidden_size": 128, "moe_intermediate_size": 64}).save_pretrained(tmp_path)
    prompts = [random_prompt(5), random_prompt(30), random_prompt(17)]
    calls = watch(monkeypatch)
    settings = {"max_batch_size": 3, "dtype": dtype}
    plain = run_traced(engine_of(tmp_path, compile=False, **settings), prompts, PARAMS)
    assert not calls
    compiled = run_traced(engine_of(tmp_path, compile=True, **settings), prompts, PARAMS)
    assert max(calls) == 3
    for ours, expected, prompt in zip(compiled, plain, prompts, strict=True):
        alike = zip(expected.token_ids, ours.token_ids, strict=True)
        same = next((at for at, (a, b) in enumerate(alike) if a != b), len(ours.token_ids))
        found, wanted = ours.logits[: same - 1].float(), expected.logits[: same - 1].float()
        if dtype == "float32":
            assert ours.token_ids == expected.token_ids
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-4 * max(1.0, wanted.std().item()))
        else:  # both round to bfloat16, at different operations
            assert same > len(prompt)
            assert (found - wanted).abs().mean() < 0.05 * wanted.std()


@pytest.mark.parametrize("quantize", ["none", "int8", "int4"])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_logits_of_bfloat16_and_quantized_weights_are_close_to_those_of_torch(
    quantize: Any, head_dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_llama(tmp_path, **SIZES | {"head_dim": head_dim})
    settings: dict[str, Any] = {"dtype": "bfloat16", "quantize": quantize, "max_batch_size": len(PROMPTS)}
    plain = run_traced(engine_of(folder, compile=False, **settings), PROMPTS, PARAMS)
    calls = watch(monkeypatch)
    compiled = run_traced(engine_of(folder, compile=True, **settings), PROMPTS, PARAMS)
    assert max(calls) == len(PROMPTS)
    for ours, expected in zip(compiled, plain, strict=True):
        start = next(
            (at for at, (a, b) in enumerate(zip(expected.token_ids, ours.token_ids, strict=True)) if a != b), None
        )
        alike = ours.logits[:start].float(), expected.logits[:start].float()
        # Both round to bfloat16, but at different operations.
        assert len(alike[0]) == 0 or (alike[0] - alike[1]).abs().mean() < 0.05 * alike[1].std()
    same = sum(ours.token_ids[0] == expected.token_ids[0] for ours, expected in zip(compiled, plain, strict=True))
    assert same >= len(PROMPTS) - 1, "only near ties may differ"


def test_a_profiler_sees_the_parts_of_a_step(tmp_path: Path) -> None:
    engine = engine_of(save("qwen3", tmp_path), compile=True)
    expected = run_traced(engine, PROMPTS, PARAMS)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        traced = run_traced(engine, PROMPTS, PARAMS)
    for ours, plain in zip(traced, expected, strict=True):
        assert ours.token_ids == plain.token_ids
        assert torch.equal(ours.logits, plain.logits), "part by part equals one call"
    calls = {event.key: event.count for event in profiler.key_averages()}
    # Prompts run rope_append, too.
    counts = {calls[f"roseinfer::{part}"] for part in native_step.PARTS if part != "rope_append"}
    assert len(counts) == 1
    assert counts.pop() % engine.model_config.num_layers == 0
    assert calls["roseinfer::linear"] > 0, "prompts and the head use it"
    assert calls["roseinfer.attention"] > calls["roseinfer::attention"], "the span covers prompts too"
    assert calls["roseinfer.kv.append"] >= calls["roseinfer::rope_append"]


def test_a_profiler_sees_the_experts_of_a_step(tmp_path: Path) -> None:
    random_model("qwen3_moe", **SIZES | {"moe_intermediate_size": 64}).save_pretrained(tmp_path)
    prompts = [random_prompt(5), random_prompt(30)]
    engine = engine_of(tmp_path, compile=True, max_batch_size=2)
    expected = run_traced(engine, prompts, PARAMS)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        traced = run_traced(engine, prompts, PARAMS)
    for ours, plain in zip(traced, expected, strict=True):
        assert torch.equal(ours.logits, plain.logits), "part by part equals one call"
    calls = {event.key: event.count for event in profiler.key_averages()}
    steps = calls["roseinfer::qkv_linear"]
    assert calls["roseinfer::output_linear"] == steps
    for name in ("route", "experts_mlp"):  # of prompts too
        assert calls[f"roseinfer::{name}"] == calls[f"roseinfer.moe.{name.partition('_')[0]}"] > steps


def test_choices_of_experts_are_counted_operation_by_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_model("qwen3_moe", **SIZES | {"moe_intermediate_size": 64}).save_pretrained(tmp_path)
    engine = engine_of(tmp_path, compile=True)
    calls = watch(monkeypatch)
    with counted_choices(engine.runner.model) as counts:
        [output] = engine.generate([random_prompt(5)], PARAMS)
    assert not calls
    spec = engine.model_config.experts
    assert spec is not None
    tokens = 5 + len(output.token_ids) - 1
    assert counts[0].sum() == tokens * spec.top_k
    engine.generate([random_prompt(5)], PARAMS)
    assert calls


def test_kernels_are_used_by_default_once_they_are_compiled(tmp_path: Path) -> None:
    folder = save("llama", tmp_path)
    assert not engine_of(folder, compile=False).config.compile
    assert engine_of(folder, compile=True).config.compile
    with pytest.raises(UsageError, match="--no-compile comes too late: engines of this process already use"):
        engine_of(folder, compile=False)
    native_library.unload()
    assert engine_of(folder).config.compile is native_library.is_on_by_default(), "the cache folder has them"


def test_nothing_is_compiled_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSEINFER_CACHE_DIR", str(tmp_path / "empty"))
    assert engine_of(save("llama", tmp_path)).config.compile is False
    assert not (tmp_path / "empty").exists()


def test_a_model_of_unsupported_sizes_runs_in_torch(tiny_llama: Path, tiny_gpt2: Path) -> None:
    for folder in (tiny_llama, tiny_gpt2):
        plain = engine_of(folder, compile=False).generate(PROMPTS, PARAMS)
        compiled = engine_of(folder, compile=True).generate(PROMPTS, PARAMS)
        assert [output.token_ids for output in compiled] == [output.token_ids for output in plain]
        native_library.unload()


def test_odd_sizes_have_the_tokens_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 80, which only the attention kernels take, a vocabulary of 501, and batches of 64 and 65."""
    calls = watch(monkeypatch)
    for head_dim, batch, is_compiled in ((80, 5, False), (32, 64, True), (32, 65, False)):
        folder = save_llama(tmp_path / f"{head_dim}-{batch}", **SIZES | {"head_dim": head_dim, "vocab_size": 501})
        native_library.unload()
        prompts = [f"{row} words" for row in range(batch)]
        params = SamplingParams(max_new_tokens=4, stop_on_eos=False)
        plain = run_traced(engine_of(folder, compile=False, max_batch_size=batch), prompts, params)
        calls.clear()
        compiled = run_traced(engine_of(folder, compile=True, max_batch_size=batch), prompts, params)
        assert (batch in calls) == is_compiled
        for ours, expected in zip(compiled, plain, strict=True):
            assert ours.token_ids == expected.token_ids
            torch.testing.assert_close(ours.logits, expected.logits, rtol=1e-4, atol=2e-4)
