"""Tests of models with experts: names in checkpoints, whole engines, quantization and refusals.

tests/models/test_architectures.py and test_architectures_gguf.py compare their logits with transformers.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from architecture_models import DECODER, engine_logits, random_model, random_prompt
from safetensors.torch import load_file, save_file
from scripted_results import results
from test_architectures_gguf import write_gguf
from test_quantize import quantize_gguf

from roseinfer.bench.cell_measurement import measure_cell
from roseinfer.bench.grid import Cell
from roseinfer.bench.results import bench_run
from roseinfer.cli.bench.result_context import context_parts
from roseinfer.cli.bench.result_output import remarks
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.costs.ceilings import Ceilings
from roseinfer.engine.factory import build_engine
from roseinfer.errors import ModelError
from roseinfer.models.architectures import read_config
from roseinfer.models.dialect import Checkpoint
from roseinfer.models.experts import ExpertLinear, ExpertsMLP
from roseinfer.workload.provenance import ModelInfo

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture(scope="module")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save a tiny Qwen3-MoE; return its directory, and the same model in transformers."""
    folder, oracle = tmp_path_factory.mktemp("qwen3_moe"), random_model("qwen3_moe")
    oracle.save_pretrained(folder)
    return folder, oracle


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "granitemoe"])
def test_experts_in_one_tensor_are_those_in_many(name: str, tmp_path: Path) -> None:
    """transformers 5 holds all experts of a layer as one parameter, and writes one per expert."""
    oracle = random_model(name)
    oracle.save_pretrained(tmp_path)
    prompts = [random_prompt(20)]
    expected = engine_logits(tmp_path, prompts, 4)[0][1]
    save_file({name: value.contiguous() for name, value in oracle.state_dict().items()}, tmp_path / "model.safetensors")
    assert torch.equal(engine_logits(tmp_path, prompts, 4)[0][1], expected)


@pytest.mark.parametrize(
    "settings",
    [{}, {"max_batch_tokens": 7, "block_size": 4, "kv_cache_memory": "18KiB"}, {"mode": "naive"}],
    ids=["together", "with preemptions", "one by one"],
)
def test_greedy_completions_are_those_of_transformers(qwen3_moe: tuple[Path, Any], settings: dict[str, Any]) -> None:
    folder, oracle = qwen3_moe
    shared = random_prompt(24)
    prompts = [shared + random_prompt(length, seed=length) for length in (1, 9, 17)]
    mode = settings.pop("mode", "online")
    engine = build_engine(EngineConfig(model=str(folder), dtype="float32", device="cpu", **settings))
    scheduler = engine.scheduler(mode)
    for prompt in prompts:
        scheduler.submit(prompt, SamplingParams(max_new_tokens=12, temperature=0.0, stop_on_eos=False))
    for output in scheduler.run():
        ids = output.prompt_token_ids + output.token_ids
        with torch.inference_mode():
            best = oracle(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        start = len(output.prompt_token_ids)
        assert output.token_ids == best[start - 1 : -1]
    assert (scheduler.num_preemptions > 0) == ("kv_cache_memory" in settings)


def test_an_expert_that_is_missing_or_too_many_is_named(qwen3_moe: tuple[Path, Any], tmp_path: Path) -> None:
    folder, oracle = qwen3_moe
    weights = load_file(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    missing = dict(weights)
    del missing["model.layers.1.mlp.experts.3.up_proj.weight"]
    extra = weights | {"model.layers.1.mlp.experts.6.up_proj.weight": torch.zeros(16, 32)}
    stacked = {name: value.contiguous() for name, value in oracle.state_dict().items()}
    stacked["model.layers.0.mlp.experts.down_proj"] = torch.zeros(7, 32, 16)
    for changed, line in (
        (missing, r"1 weights are missing, the first is model\.layers\.1\.mlp\.experts\.3\.up_proj\.weight"),
        (extra, r"model\.layers\.1\.mlp\.experts\.6\.up_proj\.weight is not part of"),
        (stacked, r"experts\.down_proj has shape \(7, 32, 16\), but the config says \(32, 16\)"),
    ):
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(ModelError, match=line):
            build_engine(EngineConfig(model=str(tmp_path), device="cpu"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"num_experts_per_tok": 7}, "a token cannot use 7 of 6 experts"),
        ({"num_local_experts": 4097}, "4097 experts are not supported; supported: 1 to 4096"),
        ({"moe_intermediate_size": None}, "needs moe_intermediate_size as int"),
        ({"hidden_act": "relu"}, "hidden_act 'relu' is not supported"),
    ],
)
def test_a_config_that_cannot_be_is_refused(qwen3_moe: tuple[Path, Any], changes: dict[str, Any], line: str) -> None:
    raw = json.loads((qwen3_moe[0] / "config.json").read_text()) | changes
    with pytest.raises(ModelError, match=line):
        read_config("safetensors", Checkpoint(raw))


def test_a_clipped_olmoe_is_refused() -> None:
    raw = random_model("olmoe").config.to_dict() | {"clip_qkv": 8.0}
    with pytest.raises(ModelError, match=r"clip_qkv 8\.0 is not supported"):
        read_config("safetensors", Checkpoint(raw))


@pytest.fixture
def whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the tiny model the smallest sizes that torch packs in 4 bits."""
    for name, size in {"hidden_size": 128, "head_dim": 32, "intermediate_size": 128}.items():
        monkeypatch.setitem(DECODER, name, size)


@pytest.mark.usefixtures("whole_groups")
@pytest.mark.parametrize(("quantize", "form"), [("int8", "Int8Rows"), ("int4", "Int4Groups")])
def test_experts_are_quantized(quantize: str, form: str, tmp_path: Path) -> None:
    random_model("mixtral").save_pretrained(tmp_path)
    plain, quantized = (
        build_engine(EngineConfig(model=str(tmp_path), device="cpu", dtype="float32", quantize=kind))
        for kind in ("none", quantize)
    )
    layers = [module for module in quantized.runner.model.modules() if isinstance(module, ExpertLinear)]
    assert {type(layer.form.expert(index)).__name__ for layer in layers for index in range(4)} == {form}
    exact = plain.runner.model.weight_views()
    for name, view in quantized.runner.model.weight_views().items():
        is_router = name.endswith("mlp.gate.weight")
        assert (view - exact[name]).norm() <= (0.0 if is_router else 0.1) * exact[name].norm()
    assert quantized.weight_bytes.experts < 0.35 * plain.weight_bytes.experts


@pytest.mark.usefixtures("whole_groups")
@pytest.mark.parametrize(
    ("kind", "form"), [("Q4_1", "Int4Groups"), ("Q8_0", "Int8Rows")], ids=["kept in groups", "requantized to rows"]
)
def test_experts_of_a_gguf_stay_quantized(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_gguf(monkeypatch, {"ffn_gate_inp": "F32", "blk.": kind})
    path = write_gguf(random_model("mixtral"), tmp_path / "model.gguf")
    kept, dense = (build_engine(EngineConfig(model=str(path), device="cpu", quantize=how)) for how in ("auto", "none"))
    layers = [module for module in kept.runner.model.modules() if isinstance(module, ExpertLinear)]
    assert {type(layer.form.expert(index)).__name__ for layer in layers for index in range(4)} == {form}
    exact = dense.runner.model.weight_views()
    for name, view in kept.runner.model.weight_views().items():
        assert (view.float() - exact[name].float()).norm() < 0.02 * exact[name].float().norm(), name


def test_a_benchmark_says_how_many_parameters_a_token_uses(qwen3_moe: tuple[Path, Any]) -> None:
    folder, oracle = qwen3_moe
    model = ModelInfo.of(build_engine(EngineConfig(model=str(folder), device="cpu")))
    idle = sum(each.numel() for name, each in oracle.named_parameters() if ".experts." in name) * 4 // 6
    assert model.parameters == oracle.num_parameters()
    assert model.active_parameters == model.parameters - idle
    measured = msgspec.structs.replace(results([0.1]), model=model)
    assert f"{model.active_parameters / 1e6:.1f} M per token (MBU counts the experts" in context_parts(measured)[0]


def test_a_measurement_counts_how_often_each_expert_is_chosen(qwen3_moe: tuple[Path, Any]) -> None:
    engine = build_engine(EngineConfig(model=str(qwen3_moe[0]), device="cpu"))
    spec = engine.model_config.experts
    assert spec is not None
    layers = [module for module in engine.runner.model.modules() if isinstance(module, ExpertsMLP)]
    for layer in layers:
        layer.router.weight.zero_()  # all scores are equal, so every token chooses the experts with the lowest ids
    params = SamplingParams(max_new_tokens=4, temperature=0.0, stop_on_eos=False)
    workload = WorkloadConfig(prompt_length=40, num_requests=2)
    found = measure_cell(
        engine, Cell(name="run", mode="offline", max_batch_size=2, workload=workload, sampling=params), repeats=1
    )
    assert found.experts is not None
    assert found.experts.tokens == 86
    assert found.experts.busiest == pytest.approx(spec.num_experts / spec.top_k)
    assert found.experts.unused_percent == pytest.approx(100 * (1 - spec.top_k / spec.num_experts))
    assert engine.expert_use.expected_hits(1000.0) == pytest.approx([spec.top_k] * len(layers))
    run = bench_run(found, Ceilings(copy_bytes_per_s=1e9, flops_per_s=1e9), startup_s=0.0)
    measured = msgspec.structs.replace(results([0.1]), model=ModelInfo.of(engine), runs=[run])
    assert "MBU counts the experts that a step is expected to use, by the counted choices" in context_parts(measured)[0]
    assert remarks(run)[0].startswith("run: choices of experts by 86 tokens: a layer's busiest has ")
