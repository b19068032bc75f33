"""CUDA graphs draw the same tokens as steps that run operator by operator."""

from pathlib import Path
from typing import Any

import pytest
import torch

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.outputs import RequestOutput

pytestmark = pytest.mark.gpu

PROMPTS = [list(range(1, 2 + 7 * index)) for index in range(7)]


def engine_of(model: Path, **more: Any) -> Engine:
    return build_engine(EngineConfig(**{"model": str(model), "dtype": "float32", "max_batch_size": 6, **more}))


def run(engine: Engine, **params: Any) -> list[RequestOutput]:
    return engine.generate(PROMPTS, SamplingParams(**{"max_new_tokens": 33, "stop_on_eos": False, **params}))


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.8, "top_k": 7}, {"temperature": 1.1, "top_p": 0.8}], ids=str)
@pytest.mark.parametrize("attention", ["paged", "gather"])
def test_graphs_draw_the_tokens_that_the_cpu_draws(
    request: pytest.FixtureRequest, model: str, params: dict[str, Any], attention: str
) -> None:
    folder = request.getfixturevalue(model)
    expected = run(engine_of(folder, device="cpu"), **params)
    found = run(engine_of(folder, device="cuda", attention=attention), **params)
    assert [output.token_ids for output in found] == [output.token_ids for output in expected]


@pytest.mark.parametrize("settings", [{"cuda_graphs": False}, {"max_decode_steps": 1}, {"max_batch_size": 1}], ids=str)
def test_graphs_and_launches_of_several_steps_change_nothing(tiny_llama: Path, settings: dict[str, Any]) -> None:
    expected = run(engine_of(tiny_llama, device="cuda"))
    found = run(engine_of(tiny_llama, device="cuda", **settings))
    assert [output.token_ids for output in found] == [output.token_ids for output in expected]


def test_prompts_beside_decodes_replay_graphs_too(tiny_llama: Path) -> None:
    expected = run(engine_of(tiny_llama, device="cpu"))
    engine = engine_of(tiny_llama, device="cuda", prefix_cache=False, max_batch_size=3)
    for _ in range(3):
        assert [output.token_ids for output in run(engine)] == [output.token_ids for output in expected]
    assert engine.runner.graphs is not None
    captured = [key for key in engine.runner.graphs.captured if key.tokens]
    assert {key.rows > 0 for key in captured} == {False, True}


def test_preemption_and_the_prefix_cache_change_nothing(tiny_llama: Path) -> None:
    expected = run(engine_of(tiny_llama, device="cuda", prefix_cache=False))
    small = engine_of(tiny_llama, device="cuda", kv_cache_memory="60kB", block_size=8)
    assert small.pool.num_blocks < 6 * 10
    for _ in range(2):  # the second time with a warm prefix cache
        assert [output.token_ids for output in run(small)] == [output.token_ids for output in expected]
    assert small.pool.num_free == small.pool.num_blocks


def test_padding_rows_touch_no_block_of_a_request(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tiny_llama, device="cuda", max_batch_size=8)
    before = engine.runner.cache.data.clone()
    scheduler = engine.scheduler("online")
    for prompt in PROMPTS[:5]:
        scheduler.submit(prompt, SamplingParams(max_new_tokens=20, stop_on_eos=False))
    used: set[int] = set()
    allocate = engine.pool.allocate

    def recording(count: int) -> list[int]:
        blocks = allocate(count)
        used.update(blocks)
        return blocks

    monkeypatch.setattr(engine.pool, "allocate", recording)
    scheduler.run()
    free = sorted(set(range(engine.pool.num_blocks)) - used)
    assert free
    torch.testing.assert_close(engine.runner.cache.data[:, :, free], before[:, :, free], rtol=0, atol=0)
