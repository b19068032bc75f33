"""Prompts draw the same tokens whatever their chunks are: in float32, against the reference backend."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny import save_llama

from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.step_plan import Chunk, StepPlan
from roseinfer.engine.step_times import StepTimes

pytestmark = pytest.mark.usefixtures("single_threaded")

PROMPT = [(7 * at * at + at) % 250 for at in range(300)]
PARAMS = SamplingParams(max_new_tokens=12, stop_on_eos=False)


@pytest.fixture(scope="module", params=["full", "windowed"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a context of 512 tokens, in one variant with a sliding window of 48."""
    folder = save_llama(tmp_path_factory.mktemp(request.param), max_position_embeddings=512)
    if request.param == "windowed":
        config = (folder / "config.json").read_text()
        config = config.replace('"llama"', '"mistral"').replace("LlamaForCausalLM", "MistralForCausalLM")
        (folder / "config.json").write_text(config.replace("{", '{"sliding_window": 48,', 1))
    return folder


def engine_of(model: Path, **settings: Any) -> Engine:
    return build_engine(EngineConfig(**{"model": str(model), "dtype": "float32", "device": "cpu", **settings}))


@cache
def expected(model: Path) -> list[int]:
    """Return the completion by gather attention, with the prompt computed at once."""
    (output,) = engine_of(model, attention="gather", prefix_cache=False).generate(PROMPT, PARAMS)
    return output.token_ids


@pytest.mark.parametrize("tokens", [7, 16, 64, 111, 299, 300])
def test_every_chunk_size_draws_the_same(model: Path, tokens: int) -> None:
    engine = engine_of(model, max_batch_tokens=tokens)
    for _ in range(2):  # the second time, the prefix cache holds all of the prompt but its end
        (output,) = engine.generate(PROMPT, PARAMS)
        assert output.token_ids == expected(model)
    assert engine.pool.statistics.hit_tokens == 288


def test_chunks_by_time_draw_the_same(model: Path) -> None:
    """Chunks that shrink with the context, beside a request that decodes."""
    engine = engine_of(model, max_itl_ms=10.0, prefix_cache=False)
    times = StepTimes(pair_work=0.02)
    object.__setattr__(engine, "step_times", times)
    decode, prompt = plan(tokens=1, is_decode=True), plan(tokens=128, is_decode=False)
    for _ in range(16):
        times.observe(decode, 0.001)
        times.observe(prompt, 0.008)
    times.observe = lambda plan, seconds: None  # type: ignore[method-assign]
    scheduler = engine.scheduler("online")
    scheduler.submit([5, 6, 7], SamplingParams(max_new_tokens=40, stop_on_eos=False))
    scheduler.step()
    scheduler.submit(PROMPT, PARAMS)
    chunks = []
    while scheduler.has_unfinished:
        scheduler.step()
        assert scheduler.last_plan is not None
        chunks += [chunk.num_tokens for chunk in scheduler.last_plan.chunks if not chunk.is_decode]
    assert chunks[0] > 2 * chunks[-2]
    assert sum(chunks) == len(PROMPT)
    assert scheduler.take_outputs()[1].token_ids == expected(model)


def plan(tokens: int, *, is_decode: bool) -> StepPlan:
    return StepPlan((Chunk(None, 0, tokens, True, is_decode),), (), ())  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_request_aborted_or_preempted_between_its_chunks_leaves_nothing_behind(model: Path, overlap: bool) -> None:
    block = 16 * 2 * 2 * 2 * 8 * 4  # bytes: 16 tokens, keys and values, 2 layers, 2 heads of 8, float32
    engine = engine_of(model, max_batch_tokens=64, kv_cache_memory=str(30 * block), overlap=overlap)
    scheduler = engine.scheduler("online")
    aborted = scheduler.submit(PROMPT, PARAMS)
    scheduler.step()
    scheduler.step()
    scheduler.abort(aborted)
    assert engine.pool.num_free == engine.pool.num_blocks == 30
    first = scheduler.submit(PROMPT, PARAMS)
    for _ in range(3):
        scheduler.step()
    # Without a window, the first request has 19 blocks and soon needs one more. The pool has 11 others; 167 tokens need
    # all of them.
    others = [scheduler.submit([251 + number, *PROMPT[:166]], PARAMS) for number in range(2)]
    outputs = {output.request_id: output.token_ids for output in scheduler.run()}
    # With a window, the first request has freed most of its blocks.
    assert (scheduler.num_preemptions > 0) == (not engine.pool.tables.windowed)
    assert outputs[first] == expected(model)
    assert len(outputs[aborted]) == 0
    assert [len(outputs[other]) for other in others] == [12, 12]
    assert engine.pool.num_free == engine.pool.num_blocks
