"""Layers with a sliding window free the blocks that no query can see any more, and completions stay the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_jobs import Job, jobs, run_jobs

from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.group_tables import GroupTables
from roseinfer.cache.layer_groups import layer_groups
from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.planner import Planner
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Policy
from roseinfer.errors import UsageError
from roseinfer.models.shapes import SHAPES

pytestmark = pytest.mark.usefixtures("single_threaded")

BLOCK = 4
LAYER_BLOCK_BYTES = BLOCK * 2 * 2 * 8 * 8
"""Keys and values of a block in one layer of `tiny_ministral`, in float64. Each of its layers is a group."""


@pytest.fixture(scope="module")
def build(tiny_ministral: Path) -> Callable[..., Engine]:
    def build(num_blocks: int, **more: Any) -> Engine:
        memory = str(num_blocks * LAYER_BLOCK_BYTES)
        fixed: dict[str, Any] = {"model": str(tiny_ministral), "dtype": "float64", "device": "cpu"}
        return build_engine(EngineConfig(**fixed, block_size=BLOCK, kv_cache_memory=memory, **more))

    return build


def completions(engine: Engine, sent: list[Job], mode: Mode) -> list[list[int]]:
    scheduler = engine.scheduler(mode)
    run_jobs(scheduler, sent)
    outputs = scheduler.take_outputs()
    assert engine.pool.num_free == engine.pool.num_blocks
    return [output.token_ids for output in outputs]


@given(
    sent=st.lists(jobs, min_size=1, max_size=6),
    mode=st.sampled_from(["offline", "online"]),
    spare_blocks=st.integers(0, 9),
    overlap=st.booleans(),
    prefix_cache=st.booleans(),
    decode_steps=st.sampled_from([1, 3]),
    attention=st.sampled_from(["paged", "gather"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_loads_draw_what_each_request_draws_alone(
    build: Callable[..., Engine],
    sent: list[Job],
    mode: Mode,
    spare_blocks: int,
    overlap: bool,
    prefix_cache: bool,
    decode_steps: int,
    attention: str,
) -> None:
    """With hardly more blocks than the largest request needs, so that freed blocks are soon written by others."""
    tables = GroupTables((None, 6, 6), BLOCK)
    largest = max(tables.most_held(len(job.prompt) + job.params.max_new_tokens, 24) for job in sent)
    limits = {"max_batch_size": 4, "max_batch_tokens": 24}
    engine = build(
        largest + spare_blocks + 1, overlap=overlap, prefix_cache=prefix_cache, attention=attention, **limits
    )
    found = completions(replace(engine, max_decode_steps=decode_steps), sent, mode)
    alone = [replace(job, aborts_after=None) for job in sent]
    expected = completions(build(400, prefix_cache=False, max_batch_tokens=400), alone, "naive")
    ends = [
        job.aborts_after is not None
        for job in sorted(sent, key=lambda job: job.arrives_at)
        for _ in range(job.params.n)
    ]
    for drawn, own, is_aborted in zip(found, expected, ends, strict=True):
        assert drawn == (own[: len(drawn)] if is_aborted else own)


@pytest.mark.parametrize("more", [{}, {"attention": "gather"}, {"max_batch_tokens": 7, "prefix_cache": False}], ids=str)
def test_prompts_of_many_windows_continue_as_in_transformers(
    build: Callable[..., Engine], tiny_ministral: Path, more: dict[str, Any]
) -> None:
    from transformers import MinistralForCausalLM

    oracle = MinistralForCausalLM.from_pretrained(tiny_ministral, dtype=torch.float64)
    source = torch.Generator().manual_seed(0)
    prompts = [torch.randint(256, (length,), generator=source).tolist() for length in (90, 37, 5)]
    prompts.append(prompts[0][:40] + [7, 8])
    # One request of 110 tokens needs 28 blocks in the layer without a window.
    engine = build(60, **{"max_batch_tokens": 16, "max_batch_size": 2} | more)
    params = SamplingParams(max_new_tokens=20, stop_on_eos=False)
    for prompt, output in zip(prompts, engine.generate(prompts, params), strict=True):
        with torch.inference_mode():
            expected = oracle.generate(
                torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        assert output.token_ids == expected[0, len(prompt) :].tolist()


def test_a_long_request_holds_a_window_in_windowed_layers(build: Callable[..., Engine]) -> None:
    engine = build(200, max_batch_tokens=16, overlap=False)
    scheduler = engine.scheduler("online")
    scheduler.submit(list(range(90)), SamplingParams(max_new_tokens=20, stop_on_eos=False))
    most = 0
    while scheduler.has_unfinished:
        scheduler.step()
        most = max(most, engine.pool.num_blocks - engine.pool.num_free)
    # 110 tokens without a window; in two layers a window of 6 tokens, and at first a chunk of 16 tokens.
    assert 28 <= most <= 28 + 2 * 3
    assert most < 0.45 * 3 * 28


def new_request(length: int, new: int, number: int = 0) -> Request:
    return Request(
        id=number,
        sample_index=0,
        parent=None,
        prompt_token_ids=[(7 * at + number) % 1000 for at in range(length)],
        params=SamplingParams(max_new_tokens=new),
        seed=0,
        max_new_tokens=new,
        stop_token_ids=frozenset(),
        submitted_s=0.0,
    )


def test_a_request_of_gemma_3_of_32768_tokens_holds_0_74_gib() -> None:
    model = SHAPES["gemma-3-4b"]
    groups = model.layer_groups
    block_bytes = 16 * groups.num_slots * model.layer_kv_bytes(2)
    pool = BlockPool(20_000, 16, windows=groups.windows)
    planner = Planner(pool, Policy(1, 8192, 8192))
    planner.add(new_request(32_768 - 8, 8))
    held = []
    while planner.has_unfinished:
        plan = planner.plan()
        planner.begin(plan)
        planner.commit(plan, [1] * sum(chunk.samples for chunk in plan.chunks))
        held.append((pool.num_blocks - pool.num_free) * block_bytes / 2**30)
    assert 32_768 * model.kv_bytes_per_token(2) / 2**30 == pytest.approx(4.25)
    assert held[-2] == pytest.approx(0.744, abs=0.001)
    assert held[-1] == 0


def test_a_request_that_fits_only_without_the_blocks_behind_its_windows_runs() -> None:
    pool = BlockPool(25 + 5, 4, windows=(None, 6))
    planner = Planner(pool, Policy(1, 8, 8))
    planner.add(new_request(90, 11))
    with pytest.raises(UsageError, match=r"needs 32 KV blocks of 4 tokens, but the pool has 30"):
        planner.add(new_request(90, 16))
    with pytest.raises(UsageError, match=r"needs 52 KV blocks"):
        Planner(BlockPool(51, 4, windows=(None, None)), Policy(1, 8, 8)).add(new_request(90, 15))


def test_a_prefix_is_found_by_its_last_window() -> None:
    pool = BlockPool(100, 4, windows=(None, 6))
    planner = Planner(pool, Policy(4, 64, 64))

    def hits(request: Request) -> int:
        before = pool.statistics.hit_tokens
        planner.add(request)
        while planner.has_unfinished:
            plan = planner.plan()
            planner.begin(plan)
            planner.commit(plan, [1] * sum(chunk.samples for chunk in plan.chunks))
        return pool.statistics.hit_tokens - before

    first = new_request(40, 4)
    assert hits(first) == 0
    longer = new_request(40, 4, 1)
    longer.prompt_token_ids[:32] = first.prompt_token_ids[:32]
    longer.token_ids = list(longer.prompt_token_ids)
    assert hits(longer) == 32
    pool.reset_prefix_cache()
    assert hits(new_request(40, 4)) == 0


@pytest.mark.parametrize(
    ("windows", "slots", "groups"),
    [
        ((None,) * 12, 12, (None,)),
        ((512,) * 12, 12, (512,)),
        ((4096, None) * 13, 13, (None, 4096)),
        (tuple(None if at % 6 == 5 else 1024 for at in range(34)), 5, (None, *(1024,) * 6)),
        ((None, *(128,) * 40), 6, (None, *(128,) * 7)),
        (tuple(range(1, 11)), 1, tuple(range(1, 11))),
    ],
    ids=["full", "windowed", "alternating", "gemma-3-4b", "one full of many", "all different"],
)
def test_layers_of_one_window_share_groups_of_equal_size(
    windows: tuple[int | None, ...], slots: int, groups: tuple[int | None, ...]
) -> None:
    found = layer_groups(windows)
    assert (found.num_slots, found.windows) == (slots, groups)
    assert len(set(found.places)) == len(windows)
    for window, place in zip(windows, found.places, strict=True):
        assert found.windows[place.group] == window
        assert 0 <= place.slot < slots
