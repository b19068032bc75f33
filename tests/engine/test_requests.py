"""Random requests through a real model in float64: each ends exactly once, with the tokens that it draws alone."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_jobs import Job, jobs, run_jobs
from tiny import EOS, LLAMA

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.outputs import RequestOutput, TokenEvent

pytestmark = pytest.mark.usefixtures("single_threaded")

TOKEN_BYTES = 2 * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * 8 * 8
"""Keys and values of one token in float64, with a head size of 8."""

TINY: dict[str, Path] = {}
"""Directory of the tiny model. Hypothesis tests cannot request function fixtures, so a module fixture stores it."""


@pytest.fixture(scope="module", autouse=True)
def _tiny(tiny_llama: Path) -> None:
    TINY["llama"] = tiny_llama


def build(num_blocks: int | None = None, block_size: int = 16, **more: Any) -> Engine:
    memory = None if num_blocks is None else str(num_blocks * block_size * TOKEN_BYTES)
    model: dict[str, Any] = {"model": str(TINY["llama"]), "dtype": "float64", "device": "cpu"}
    return build_engine(EngineConfig(**model, block_size=block_size, kv_cache_memory=memory, **more))


@cache
def reference_engine() -> Engine:
    return build(attention="gather", prefix_cache=False)


def alone(job: Job) -> list[RequestOutput]:
    """Return the outputs of one request that runs alone through the reference backend."""
    scheduler = reference_engine().scheduler("naive")
    scheduler.submit(job.prompt, job.params)
    return scheduler.run()


@given(
    sent=st.lists(jobs, min_size=1, max_size=6),
    mode=st.sampled_from(["naive", "offline", "online", "online"]),
    block_size=st.sampled_from([1, 4, 16]),
    spare_blocks=st.integers(0, 6),
    limits=st.fixed_dictionaries({"max_batch_size": st.integers(1, 5), "max_batch_tokens": st.integers(1, 48)}),
    attention=st.sampled_from(["paged", "gather"]),
    prefix_cache=st.booleans(),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_request_in_any_company_ends_once_and_as_it_would_alone(
    sent: list[Job],
    mode: Mode,
    block_size: int,
    spare_blocks: int,
    limits: dict[str, int],
    attention: Any,
    prefix_cache: bool,
) -> None:
    longest = max(len(job.prompt) + job.params.max_new_tokens for job in sent)
    blocks = -(-longest // block_size) + spare_blocks
    engine = build(blocks, block_size, attention=attention, prefix_cache=prefix_cache, **limits)
    scheduler = engine.scheduler(mode)
    pieces: dict[tuple[int, int], str] = {}
    ends: list[tuple[int, int]] = []

    def collect(events: list[TokenEvent]) -> None:
        for event in events:
            key = (event.request_id, event.sample_index)
            pieces[key] = pieces.get(key, "") + event.text
            ends.extend([key] if event.finish_reason is not None else [])

    ids = run_jobs(scheduler, sent, collect)
    outputs = scheduler.run()
    assert len(ends) == len(set(ends)), "no request ends twice"
    expected_keys = [(request_id, index) for request_id, job in ids.items() for index in range(job.params.n)]
    assert [(output.request_id, output.sample_index) for output in outputs] == expected_keys
    own = {request_id: alone(job) for request_id, job in ids.items()}
    for output in outputs:
        job, expected = ids[output.request_id], own[output.request_id][output.sample_index]
        assert output.prompt_token_ids == list(job.prompt)
        assert len(output.token_times_s) == len(output.token_ids)
        if output.finish_reason == "abort":
            assert job.aborts_after is not None
            assert output.token_ids == expected.token_ids[: len(output.token_ids)]
            continue
        assert (output.token_ids, output.text) == (expected.token_ids, expected.text)
        assert output.finish_reason == expected.finish_reason
        assert pieces.get((output.request_id, output.sample_index), "") == output.text
        assert len(output.token_ids) <= job.params.max_new_tokens
        if output.finish_reason == "stop":
            assert output.token_ids[-1] == EOS
        else:
            assert len(output.token_ids) == job.params.max_new_tokens
    assert engine.pool.num_free == engine.pool.num_blocks
    assert scheduler.run() == []


def test_tiny_pools_do_preempt(tiny_llama: Path) -> None:
    """The property above relies on preemption: pools of its size do run out of blocks."""
    engine = build(8, 4, max_batch_size=4, max_batch_tokens=64)
    scheduler = engine.scheduler("online")
    for seed in range(4):
        scheduler.submit([seed] * 5, SamplingParams(max_new_tokens=20, stop_on_eos=False, seed=seed))
    outputs = scheduler.run()
    assert scheduler.num_preemptions > 0
    assert [len(output.token_ids) for output in outputs] == [20] * 4


def test_unseeded_requests_draw_by_the_engines_seed_and_their_order(tiny_llama: Path) -> None:
    sampled = SamplingParams(max_new_tokens=12, temperature=1.0, stop_on_eos=False)

    def texts(mode: Mode, batch: int, seed: int = 0) -> list[list[int]]:
        scheduler = build(max_batch_size=batch, seed=seed).scheduler(mode)
        for _ in range(4):
            scheduler.submit([1, 2, 3], sampled)
        return [output.token_ids for output in scheduler.run()]

    expected = texts("naive", 1)
    assert len({tuple(ids) for ids in expected}) == 4
    for mode in ("offline", "online"):
        for batch in (1, 3, 4):
            assert texts(mode, batch) == expected
    assert texts("online", 4, seed=1) != expected
