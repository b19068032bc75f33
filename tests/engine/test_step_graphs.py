"""Steps with fixed-address inputs, as CUDA graphs capture them, run on a CPU without a graph."""

import random
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from roseinfer.attention.torch_attention import TorchAttention
from roseinfer.attention.triton_attention import TritonAttention
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.graph_sizes import GraphKey, SamplingKind
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.kernels.attention.rope_append import rope_append


def graphs_of(engine: Engine, max_blocks: int = 8, max_batch_size: int = 4) -> StepGraphs:
    """Return the graphs of an engine, with the Triton backend, whose kernels fall back to their references here."""
    runner = engine.runner
    return StepGraphs(
        runner.model,
        runner.cache,
        TritonAttention(),
        max_batch_size=max_batch_size,
        max_blocks=max_blocks,
        max_steps=2,
        scrap_block=runner.cache.num_blocks - 1,
    )


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[GraphKey]:
    """Record the keys that are replayed. A replay runs the step itself."""
    found: list[GraphKey] = []

    def capture(graphs: StepGraphs, key: GraphKey) -> SimpleNamespace:
        def replay() -> None:
            found.append(key)
            graphs._steps(key).step(key)

        graphs._steps(key).pad(key)  # as a capture does
        return SimpleNamespace(replay=replay)

    launch = StepGraphs.launch
    monkeypatch.setattr(StepGraphs, "_capture", capture)
    # On a GPU, results are copied before the next launch overwrites them. On a CPU the copy is made here.
    monkeypatch.setattr(StepGraphs, "launch", lambda graphs: launch(graphs).clone())
    return found


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_gpt2", "tiny_ministral"])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.8, "top_k": 7}, {"temperature": 1.1, "top_p": 0.8}], ids=str)
def test_steps_that_keep_their_state_on_the_device_draw_the_same(
    model: str, params: dict[str, Any], request: pytest.FixtureRequest, replays: list[GraphKey]
) -> None:
    """Requests start and end, so that rows move between steps."""
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
    assert {key.rows for key in replays if not key.tokens} == {1, 2, 4}
    replays.clear()
    assert run() == expected
    assert {key.rows for key in replays if key.tokens} >= {0, 4}, "what came a second time has a graph"


def test_what_a_load_asked_for_once_can_be_captured_before_it_comes_again(
    tiny_llama: Path, replays: list[GraphKey]
) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu", prefix_cache=False))
    engine.runner.capture_missing()  # without graphs there is nothing to do
    graphs = engine.runner.graphs = graphs_of(engine)
    expected = engine.generate([1, 2, 3], SamplingParams(max_new_tokens=3))[0].token_ids
    assert graphs.captured == [GraphKey(1, "greedy")]
    assert graphs.missing == [GraphKey(0, "greedy", 64)]
    engine.runner.capture_missing()
    assert graphs.captured == [GraphKey(1, "greedy"), GraphKey(0, "greedy", 64)]
    assert graphs.missing == []
    replays.clear()
    assert engine.generate([1, 2, 3], SamplingParams(max_new_tokens=3))[0].token_ids == expected
    assert replays[0] == GraphKey(0, "greedy", 64)


@pytest.mark.parametrize(
    ("model", "mode", "fused"),
    [
        *product(["tiny_llama", "tiny_gpt2"], ["online", "offline"], [False, True]),
        ("tiny_ministral", "offline", True),
    ],
)
def test_prompts_beside_decodes_draw_the_same_whatever_stands_between_them(
    model: str,
    mode: Any,
    fused: bool,
    request: pytest.FixtureRequest,
    replays: list[GraphKey],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mixed steps with chunked prompts, every kind of sampling, preemption and resumption.

    Among them are requests whose logits the host has a part in, which no graph runs.
    """
    monkeypatch.setattr(StepGraphs, "wants", lambda graphs, key: True)
    rng = random.Random(5)
    work = [
        ([rng.randrange(50) for _ in range(rng.randint(1, 60))], SamplingParams(max_new_tokens=rng.randint(1, 40), **p))
        for p in ({}, {"temperature": 0.8, "top_k": 7}, {"temperature": 1.1, "top_p": 0.8}, {"stop_on_eos": False})
        for _ in range(6)
    ]
    with_host: tuple[dict[str, Any], ...] = (
        {"logit_bias": {7: 50.0}},
        {"presence_penalty": 2.0, "frequency_penalty": 2.0},
        {"repetition_penalty": 3.0},
        {"logprobs": 1},
        {"min_new_tokens": 9, "stop_token_ids": tuple(range(0, 250, 2))},
    )
    work.insert(0, ([3, 4], SamplingParams(max_new_tokens=12, min_new_tokens=1, stop_token_ids=tuple(range(250)))))
    work += [([rng.randrange(50) for _ in range(9)], SamplingParams(max_new_tokens=12, **p)) for p in with_host]
    folder = str(request.getfixturevalue(model))
    settings = {"max_batch_size": 4, "max_batch_tokens": 24, "block_size": 4, "max_model_len": 112, "seed": 3}

    def run(*, graphs: bool, **more: Any) -> list[list[int]]:
        config = {"model": folder, "dtype": "float32", "device": "cpu", "prefix_cache": False, **settings, **more}
        engine = build_engine(EngineConfig(**config))
        if fused:  # one kernel rotates and appends, instead of torch operations
            engine.runner.attention = TorchAttention(rope_append)
        if graphs:
            engine.runner.graphs = graphs_of(engine, max_blocks=28)
        scheduler = engine.scheduler(mode)
        for prompt, params in work:
            scheduler.submit(prompt, params)
        outputs = scheduler.run()
        assert engine.pool.num_free == engine.pool.num_blocks
        done.append((scheduler.num_preemptions, engine))
        biased, *_, patient = (output.token_ids for output in outputs[-len(with_host) :])
        assert biased == [7] * 12
        assert len(patient) >= 9
        return [output.token_ids for output in outputs]

    done: list[tuple[int, Engine]] = []
    expected = run(graphs=False)
    assert run(graphs=True) == expected
    # Windowed layers free blocks, so that fewer are enough.
    few = (16 if model == "tiny_ministral" else 30) * 4 * done[0][1].model_config.kv_bytes_per_token(4)
    assert run(graphs=True, kv_cache_memory=str(few), prefix_cache=True) == expected
    assert done[-1][0] > 0, "four requests need more blocks"
    assert run(graphs=True, overlap=True) == expected
    assert {key.rows for key in replays if key.tokens} == {0, 4}
    assert {key.kind for key in replays if key.tokens} == {"greedy", "top_k", "all"}


def test_a_prompt_of_one_token_behind_a_longer_one_and_a_capture_between_launches_change_nothing(
    tiny_llama: Path, replays: list[GraphKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepGraphs, "wants", lambda graphs, key: True)

    def run(graphs: bool) -> list[list[int]]:
        engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu", max_batch_size=4))
        if graphs:
            engine.runner.graphs = graphs_of(engine)
        scheduler = engine.scheduler("online")
        for prompt in ([1, 2, 3, 4, 5], [7]):
            scheduler.submit(prompt, SamplingParams(max_new_tokens=9, stop_on_eos=False))
        for _ in range(4):
            scheduler.step()
        if engine.runner.graphs is not None:
            engine.runner.graphs.capture(GraphKey(1, "all"))
        return [output.token_ids for output in scheduler.run()]

    assert run(graphs=True) == run(graphs=False)
    assert replays[0] == GraphKey(4, "greedy", 64), "the one token is like a decode"


def test_decodes_of_growing_batches_are_captured_for_powers_of_two_first(
    tiny_llama: Path, replays: list[GraphKey]
) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu", max_batch_size=200))
    graphs = graphs_of(engine, max_batch_size=200)

    def run(num_requests: int, batches: int = 1) -> int:
        """Decode as the runner does; return the rows of the graph that runs the last batch."""
        for _ in range(batches):
            key = graphs.sizes.decode_key(num_requests, {"greedy"})
            assert key is not None
            assert graphs.wants(key)
            key = graphs.substitute(key)
            if not graphs.is_captured(key):
                graphs.capture(key)
        return key.rows

    assert [run(size) for size in (1, 3, 5, 9, 17, 25, 33, 90, 129, 200)] == [1, 4, 8, 16, 32, 32, 64, 128, 200, 200]
    assert {key.rows for key in graphs.captured} == {1, 4, 8, 16, 32, 64, 128, 200}
    assert run(20, batches=60) == 32
    assert run(20, batches=10) == 24, "its own size, once the last capture is 64 batches ago"
    assert run(40, batches=10) == 64
    for key in graphs.missing:
        graphs.capture(key)
    assert [run(size) for size in (40, 90, 130)] == [40, 96, 160], "a warm-up captures all sizes that were needed"


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
        for kind in get_args(SamplingKind):
            graphs.rehearse(GraphKey(4, kind), replay=False)
            graphs.rehearse(GraphKey(4, kind, 64), replay=False)
            graphs.rehearse(GraphKey(0, kind, 64), replay=False)
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


def test_captures_of_long_steps_are_apart(tiny_llama: Path, replays: list[GraphKey]) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu"))
    graphs = graphs_of(engine)
    long, other, short = (GraphKey(0, "greedy", tokens, whole=tokens > 512) for tokens in (768, 896, 64))
    assert not any(graphs.wants(key) for key in (long, other, short)), "nothing is captured at its first step"
    assert graphs.wants(long)
    graphs.capture(long)
    assert not graphs.wants(other)
    assert graphs.wants(short)
    assert graphs.wants(long), "it is captured"
    assert [graphs.wants(other) for _ in range(8)].count(True) == 1
