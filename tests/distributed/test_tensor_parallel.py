"""Two ranks on the CPU draw the same tokens as one process, in float64, for every architecture and feature."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from architecture_models import MODELS, random_model, random_prompt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_jobs import Job, jobs, run_jobs
from tiny import LLAMA, save_mistral

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.errors import RoseinferError, UsageError

pytestmark = pytest.mark.usefixtures("single_threaded")

TOKEN_BYTES = 2 * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * 8 * 8
"""Keys and values of one token in float64, with a head size of 8."""

ALSO = (
    "llama, tied head",
    "llama, all biases",
    "cohere, attention bias",
    "gpt2, untied head",
    "phi3, partly rotated",
    "stablelm, side by side",
    "qwen2, windows in some layers",
)

SAMPLED = SamplingParams(max_new_tokens=8, stop_on_eos=False, temperature=0.8, seed=1)
GREEDY = SamplingParams(max_new_tokens=8, stop_on_eos=False)


@contextmanager
def built(model: Path, ranks: int, **changes: Any) -> Iterator[Engine]:
    """Build an engine with some ranks. Engines that follow one another use the same processes."""
    fields: dict[str, Any] = {"dtype": "float64", "device": "cpu", **changes}
    engine = build_engine(EngineConfig(model=str(model), tensor_parallel=ranks, **fields))
    try:
        yield engine
    finally:
        engine.close()


ARCHITECTURES = [name for name in MODELS if "," not in name or name in ALSO]
"""Each architecture once, and the variants that divide in another way."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_draws_the_same_tokens(name: str, tmp_path: Path) -> None:
    random_model(name).save_pretrained(tmp_path)
    prompts = [random_prompt(length, seed=length) for length in (3, 21)]
    found = []
    for ranks in (1, 2):
        with built(tmp_path, ranks, block_size=4, max_batch_tokens=12) as engine:
            found.append([output.token_ids for output in engine.generate(prompts, [GREEDY, SAMPLED])])
    assert found[0] == found[1]


def test_key_value_heads_may_be_fewer_than_ranks(tmp_path: Path) -> None:
    for name in ("llama", "olmo2"):  # OLMo 2 normalizes all keys together
        folder = tmp_path / name
        random_model(name, num_key_value_heads=1).save_pretrained(folder)
        found = []
        for ranks in (1, 2):
            with built(folder, ranks) as engine:
                found.append(engine.generate([random_prompt(9)], SAMPLED)[0].token_ids)
        assert found[0] == found[1]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose windows are shorter than the prompts."""
    return save_mistral(tmp_path_factory.mktemp("mistral"), sliding_window=9)


def run(engine: Engine, sent: list[Job], mode: Mode) -> tuple[list[list[int]], int]:
    """Token ids of all completions, and the number of preemptions. Checks that all ranks drew them."""
    scheduler = engine.scheduler(mode)
    run_jobs(scheduler, sent)
    outputs = scheduler.take_outputs()
    assert engine.pool.num_free == engine.pool.num_blocks
    if isinstance(engine.runner, LeadingRunner):
        assert engine.runner.drew_the_same()
    return [output.token_ids for output in outputs], scheduler.num_preemptions


@given(
    sent=st.lists(jobs, min_size=1, max_size=6),
    mode=st.sampled_from(["naive", "offline", "online"]),
    spare_blocks=st.integers(0, 4),
    overlap=st.booleans(),
    prefix_cache=st.booleans(),
    has_window=st.booleans(),
)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_loads_draw_the_same_tokens_on_all_ranks(
    tiny_llama: Path,
    windowed: Path,
    sent: list[Job],
    mode: Mode,
    spare_blocks: int,
    overlap: bool,
    prefix_cache: bool,
    has_window: bool,
) -> None:
    """The loads preempt, share prefixes, abort and have several completions per prompt."""
    longest = max(len(job.prompt) + job.params.max_new_tokens for job in sent)
    memory = (-(-longest // 4) + spare_blocks) * 4 * TOKEN_BYTES
    found = []
    for ranks in (1, 2):
        limits: dict[str, Any] = {"block_size": 4, "max_batch_size": 4, "max_batch_tokens": 24}
        with built(
            windowed if has_window else tiny_llama,
            ranks,
            **limits,
            kv_cache_memory=str(memory // ranks),  # a rank has half of the heads
            overlap=overlap,
            prefix_cache=prefix_cache,
        ) as engine:
            found.append(run(engine, sent, mode))
    assert found[0] == found[1]


def test_a_load_that_preempts_and_aborts_draws_the_same_tokens_on_all_ranks(tiny_llama: Path) -> None:
    """The property above relies on such loads: this one has all of it."""
    prompt = tuple(range(1, 13))
    sampled = SamplingParams(max_new_tokens=16, temperature=0.9, n=3, stop_on_eos=False, frequency_penalty=0.5)
    plain = SamplingParams(max_new_tokens=20, stop_on_eos=False, logprobs=2)
    sent = [
        Job(prompt, plain, 0, None),
        Job(prompt, sampled, 1, None),
        Job((*prompt, 40), plain, 2, 9),
        Job((7,), plain, 3, None),
    ]
    found = []
    for ranks in (1, 2):
        memory = str(14 * 4 * TOKEN_BYTES // ranks)
        limits: dict[str, Any] = {"block_size": 4, "max_batch_size": 4, "max_batch_tokens": 24, "overlap": True}
        with built(tiny_llama, ranks, kv_cache_memory=memory, **limits) as engine:
            found.append(run(engine, sent, "online"))
            assert engine.pool.statistics.hit_tokens > 0
    assert found[0] == found[1]
    assert found[1][1] > 0, "a request was preempted"


def test_a_closed_engine_is_refused_and_its_processes_serve_the_next(tiny_llama: Path) -> None:
    with built(tiny_llama, 2) as first:
        processes = first.runner.team.process_ids  # type: ignore[attr-defined]
    with built(tiny_llama, 2) as second:
        assert second.runner.team.process_ids == processes  # type: ignore[attr-defined]
        with pytest.raises(RoseinferError, match="the engine is closed: build it again"):
            first.generate("hi", GREEDY)
        second.generate("hi", GREEDY)


@pytest.mark.parametrize(
    ("changes", "environment", "message"),
    [
        ({"tensor_parallel": 3}, {}, "--tensor-parallel 3 .* query heads of 4: give 1, 2 or 4"),
        ({"quantize": "int4", "dtype": "float32"}, {}, "--quantize int4 has groups of 32 columns"),
        ({}, {"RANK": "0", "WORLD_SIZE": "4"}, "--tensor-parallel 2 runs under torchrun with WORLD_SIZE=4"),
        ({}, {"RANK": "0", "WORLD_SIZE": "two"}, "invalid environment variable WORLD_SIZE='two'"),
        ({}, {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}, "all ranks on one host"),
    ],
)
def test_what_cannot_work_is_refused_before_a_process_starts(
    changes: dict[str, Any],
    environment: dict[str, str],
    message: str,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("roseinfer.engine.factory.team_of", lambda *_: pytest.fail("a process was started"))
    config = EngineConfig(**{"model": str(tiny_llama), "device": "cpu", "tensor_parallel": 2, **changes})
    with pytest.raises(UsageError, match=message):
        build_engine(config)
