"""A GPU draws the same tokens as a CPU, for every mode, attention backend and way of running steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architecture_models import random_model, random_prompt

from roseinfer.attention.torch_attention import TorchAttention
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.schedulers import Scheduler
from roseinfer.upload import upload

pytestmark = pytest.mark.gpu

MODELS = (
    "llama",
    "llama, llama3",
    "llama, all biases",
    "mistral",
    "mistral, sliding window",
    "qwen2",
    "qwen2, sliding window",
    "qwen3",
    "qwen3, head_dim apart from hidden size",
    "gpt2",
)
OTHER_FAMILIES = (
    "cohere2",
    "exaone4",
    "gemma2",
    "gemma3_text, scaled rotation",
    "glm4",
    "gpt_neox",
    "gpt_oss",
    "granite",
    "granitemoeshared",
    "ministral",
    "mixtral",
    "olmo3, yarn",
    "olmoe",
    "phi3, partly rotated",
    "qwen2_moe",
    "qwen3_moe, an MLP in some layers",
    "smollm3, windows",
    "stablelm, side by side",
    "starcoder2",
)
SHARED = random_prompt(40)
PROMPTS = [
    random_prompt(3, seed=1),
    SHARED + random_prompt(9, seed=2),
    random_prompt(50, seed=3),
    SHARED,
    random_prompt(17, seed=4),
    SHARED + random_prompt(20, seed=5),
    random_prompt(1, seed=6),
    random_prompt(33, seed=7),
]
NEW_TOKENS = (20, 7, 31, 12, 25, 1, 18, 30)
SETTINGS: dict[str, dict[str, Any]] = {
    "whole prompts": {},
    "no graphs": {"cuda_graphs": False},
    "chunks": {"max_batch_tokens": 11, "block_size": 4},
    "chunks, no graphs": {"max_batch_tokens": 11, "block_size": 4, "cuda_graphs": False},
    "large blocks, no prefix cache": {"block_size": 32, "prefix_cache": False},
    "blocks of a size that the kernels do not take": {"block_size": 12, "max_batch_tokens": 30},
    "gathered blocks": {"attention": "gather"},
    "gathered blocks, chunks": {"attention": "gather", "max_batch_tokens": 11},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(request.param).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    return generate(engine_of(model, device="cpu"))


@pytest.fixture
def mixed_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Records, per step that the Triton backend prepares, whether it has both decodes and prompts."""
    prepare, seen = TritonAttention.prepare, []

    def recording(self: TritonAttention, *arguments: Any) -> Any:
        step = prepare(self, *arguments)
        seen.append(step.decodes is not None and step.prompts is not None)
        return step

    monkeypatch.setattr(TritonAttention, "prepare", recording)
    return seen


def engine_of(model: Path, device: str = "cuda", **settings: Any) -> Engine:
    return build_engine(
        EngineConfig(**{"model": str(model), "device": device, "dtype": "float32", "max_batch_size": 5, **settings})
    )


def generate(engine: Engine) -> list[list[int]]:
    return run(engine.scheduler("online"))


def run(scheduler: Scheduler) -> list[list[int]]:
    """Run the requests, submitting the last ones while the first ones run, and return the outputs."""
    requests = [
        (prompt, SamplingParams(max_new_tokens=count, stop_on_eos=False))
        for prompt, count in zip(PROMPTS, NEW_TOKENS, strict=True)
    ]
    for prompt, params in requests[:3]:
        scheduler.submit(prompt, params)
    for _ in range(4):
        scheduler.step()
    for prompt, params in requests[3:]:
        scheduler.submit(prompt, params)
    return [output.token_ids for output in scheduler.run()]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_gpu_draws_what_a_cpu_draws(model: Path, expected: list[list[int]], settings: dict[str, Any]) -> None:
    engine = engine_of(model, **settings)
    assert generate(engine) == expected
    assert generate(engine) == expected, "with a warm prefix cache"
    assert engine.pool.num_free == engine.pool.num_blocks


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_a_gpu_draws_what_a_cpu_draws_for_every_kind_of_layer(name: str, tmp_path: Path) -> None:
    random_model(name).save_pretrained(tmp_path)
    on_cpu = generate(engine_of(tmp_path, device="cpu"))
    for settings in (SETTINGS["whole prompts"], SETTINGS["chunks, no graphs"]):
        assert generate(engine_of(tmp_path, **settings)) == on_cpu


@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("attention", ["paged", "gather"])
def test_preempted_requests_draw_the_same(
    model: Path, expected: list[list[int]], cuda_graphs: bool, attention: str
) -> None:
    roomy = engine_of(model, block_size=8)
    block_bytes = roomy.runner.cache.data[:, :, 0].nbytes
    engine = engine_of(
        model, block_size=8, kv_cache_memory=str(16 * block_bytes), cuda_graphs=cuda_graphs, attention=attention
    )
    assert engine.pool.num_blocks <= 16
    scheduler = engine.scheduler("online")
    assert run(scheduler) == expected
    # Requests whose layers all have a window free blocks as they grow, and wait for admission instead.
    assert scheduler.num_preemptions > 0 or engine.pool.tables.windowed
    assert engine.pool.num_free == engine.pool.num_blocks


def test_prompts_beside_decodes_take_both_kernels(tiny_llama: Path, mixed_steps: list[bool]) -> None:
    # One token per launch, so that the first requests still decode when the others arrive.
    engine = engine_of(tiny_llama, max_decode_steps=1)
    assert isinstance(engine.runner.attention, TritonAttention)
    generate(engine)
    assert any(mixed_steps)
    assert not all(mixed_steps)


def test_float64_goes_to_torch_operations(tiny_llama: Path) -> None:
    engine = engine_of(tiny_llama, dtype="float64")
    assert isinstance(engine.runner.attention, TorchAttention)
    assert engine.runner.graphs is None
    assert generate(engine) == generate(engine_of(tiny_llama, device="cpu", dtype="float64"))


def test_uploads_under_way_are_not_overwritten() -> None:
    device = torch.device("cuda")
    upload(device, np.zeros(1000, dtype=np.int64))
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # cycles: no copy starts before all of them are queued
    copies = [upload(device, np.full(1000, number), np.full(7, -number, dtype=np.int32)) for number in range(50)]
    for number, (first, second) in enumerate(copies):
        assert first.dtype == torch.int64
        assert second.dtype == torch.int32
        assert (first == number).all()
        assert (second == -number).all()
