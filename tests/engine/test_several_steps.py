"""Launches of several decode steps give the same tokens, text and events as one step per launch."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import VOCAB_SIZE

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.outputs import TokenLogprobs

pytestmark = pytest.mark.usefixtures("single_threaded")

PROMPTS = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=20)
PARAMS = st.builds(
    SamplingParams,
    max_new_tokens=st.integers(1, 30),
    temperature=st.sampled_from((0.0, 1.0)),
    stop_on_eos=st.booleans(),
    n=st.integers(1, 2),
    logprobs=st.sampled_from((None, None, None, 1)),
)


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", block_size=4))


@given(
    requests=st.lists(st.tuples(PROMPTS, PARAMS), min_size=1, max_size=6),
    most=st.integers(1, 16),
    mode=st.sampled_from(get_args(Mode)),
    spare_blocks=st.integers(0, 20),
    overlap=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_result_is_that_of_one_step_at_a_time(
    engine: Engine,
    requests: list[tuple[list[int], SamplingParams]],
    most: int,
    mode: Mode,
    spare_blocks: int,
    overlap: bool,
) -> None:
    # Separate prefix caches, because the engines overwrite each other's blocks in the shared KV tensors.
    expected = replace(engine, pool=BlockPool(200, 4)).scheduler(mode)
    needed = max(-(-(len(prompt) + params.max_new_tokens) // 4) for prompt, params in requests)
    pool = BlockPool(needed + spare_blocks, 4)
    ahead = replace(engine, max_decode_steps=most, overlap=overlap, pool=pool).scheduler(mode)
    for prompt, params in requests:
        expected.submit(prompt, params)
        ahead.submit(prompt, params)
    tokens: Counter[tuple[int, int]] = Counter()
    logprobs: dict[tuple[int, int], list[TokenLogprobs]] = {}
    ended: set[tuple[int, int]] = set()
    while ahead.has_unfinished:
        for event in ahead.step():
            key = (event.request_id, event.sample_index)
            assert key not in ended, "no token comes after the last one"
            tokens[key] += 1
            if event.logprobs is not None:
                logprobs.setdefault(key, []).append(event.logprobs)
            if event.finish_reason is not None:
                ended.add(key)
    for output, alone in zip(ahead.run(), expected.run(), strict=True):
        key = (output.request_id, output.sample_index)
        assert output.token_ids == alone.token_ids
        assert (output.text, output.finish_reason) == (alone.text, alone.finish_reason)
        assert len(output.token_ids) == len(output.token_times_s) == tokens[key]
        assert output.logprobs == logprobs.get(key)
        assert key in ended
    assert ahead.engine.pool.num_free == ahead.engine.pool.num_blocks


def test_a_launch_takes_as_many_steps_as_the_shortest_request_has_left(engine: Engine) -> None:
    scheduler = replace(engine, max_decode_steps=8).scheduler("online")
    for tokens in (6, 20):
        scheduler.submit([1, 2, 3], SamplingParams(max_new_tokens=tokens, stop_on_eos=False))
    labels = []
    while scheduler.has_unfinished:
        scheduler.step()
        assert scheduler.last_plan is not None
        labels.append(scheduler.last_plan.label)
    assert labels == ["prefill bs=2 tokens=6", "decode bs=2 tokens=10", "decode bs=1 tokens=8", "decode bs=1 tokens=6"]


@pytest.mark.parametrize("params", [{"stop_on_eos": True}, {"stop": ("x",)}, {"stop_token_ids": (3,)}, {"logprobs": 1}])
def test_requests_that_may_end_early_or_need_the_logits_take_one_step_at_a_time(
    engine: Engine, params: dict[str, object]
) -> None:
    scheduler = replace(engine, max_decode_steps=8).scheduler("online")
    scheduler.submit([1, 2, 3], SamplingParams(**{"max_new_tokens": 5, "stop_on_eos": False, **params}))
    while scheduler.has_unfinished:
        scheduler.step()
        assert scheduler.last_plan is not None
        assert scheduler.last_plan.decode_steps == 1


def test_a_ban_of_stop_tokens_delays_overlap_by_its_own_steps_only(tiny_llama: Path) -> None:
    engine = build_engine(EngineConfig(model=str(tiny_llama), dtype="float64", device="cpu", overlap=True))
    scheduler = engine.scheduler("online")
    params = SamplingParams(max_new_tokens=6, min_new_tokens=1, stop_token_ids=(250,), stop_on_eos=False)
    scheduler.submit([1, 2, 3], params)
    events = []
    while scheduler.has_unfinished:
        events.append(len(scheduler.step()))
    # The first step's draw has the ban. The second step is launched before the first one's token is read.
    assert events[0] == 0
    assert sum(events) == 6
