"""The step that decode graphs capture, run without a graph."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from roseinfer.attention.paged_kernels import PagedKernelAttention
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.decode_graphs import DecodeGraphs
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine


def graphs_of(engine: Engine) -> DecodeGraphs:
    """Of the backend that decodes on the device: its kernels have references."""
    runner = engine.runner
    return DecodeGraphs(
        runner.model,
        runner.cache,
        PagedKernelAttention(),
        max_batch_size=4,
        max_blocks=8,
        max_steps=2,
        scrap_block=runner.cache.num_blocks - 1,
    )


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.8, "top_k": 7}, {"temperature": 1.1, "top_p": 0.8}], ids=str)
def test_steps_that_keep_their_state_on_the_device_draw_the_same(
    model: str, params: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests come and go, and rows move: what a replay would run, run without a graph."""
    replays = []

    def capture(graphs: DecodeGraphs, size: int, kind: Any) -> SimpleNamespace:
        def replay() -> None:
            replays.append(size)
            graphs._step(size, kind)

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(DecodeGraphs, "_capture", capture)
    folder = str(request.getfixturevalue(model))
    engine = build_engine(EngineConfig(model=folder, dtype="float32", device="cpu", max_batch_size=4, seed=3))
    prompts = [list(range(1, 3 + 2 * index)) for index in range(6)]
    sampling = [SamplingParams(max_new_tokens=count, stop_on_eos=False, **params) for count in (4, 25, 6, 17, 5, 9)]

    def run() -> list[list[int]]:
        engine.pool.reset_prefix_cache()
        return [output.token_ids for output in engine.generate(prompts, sampling)]

    expected = run()
    engine.runner.graphs = graphs_of(engine)
    assert run() == expected
    assert set(replays) == {1, 2, 4}


def test_a_rehearsal_writes_to_no_block_of_a_request_and_runs_under_spans(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # there is no device to pin it for
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu", max_batch_size=4))
    runner = engine.runner
    cache = runner.cache.data
    graphs = graphs_of(engine)
    with torch.inference_mode():
        cache.normal_()
    before = cache.clone()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for kind in ("greedy", "top_k", "all"):
            graphs.rehearse((4, kind), replay=False)
    assert graphs.captured == []
    assert not torch.equal(cache[:, :, -1], before[:, :, -1])
    torch.testing.assert_close(cache[:, :, :-1], before[:, :, :-1], rtol=0, atol=0)
    spans = {event.name: event for event in profiler.events() if event.name.startswith("roseinfer.")}
    assert set(spans) == {
        "roseinfer.model.forward",
        "roseinfer.kv.append",
        "roseinfer.attention",
        "roseinfer.sample",
    }
    assert spans["roseinfer.attention"].cpu_parent.name == "roseinfer.model.forward"
