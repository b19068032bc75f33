"""Steps cross from the planner to the runner as plain data, and are labelled by the plan that runs."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_jobs import Job, jobs, run_jobs
from tiny import LLAMA

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine import schedulers
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.graph_sizes import GraphKey
from roseinfer.engine.launch import Launch
from roseinfer.engine.step_batch import StepBatch
from roseinfer.engine.step_plan import StepPlan

pytestmark = pytest.mark.usefixtures("single_threaded")

TOKEN_BYTES = 2 * LLAMA["num_hidden_layers"] * LLAMA["num_key_value_heads"] * 8 * 8
"""Keys and values of one token in float64, with a head size of 8."""


@pytest.fixture(scope="module")
def tiny_pool_engine(tiny_llama: Path) -> Callable[..., Engine]:
    """Builds engines with a pool of a few blocks of four tokens, in which most loads preempt."""

    def build(num_blocks: int, **settings: Any) -> Engine:
        memory = str(num_blocks * 4 * TOKEN_BYTES)
        model: dict[str, Any] = {"model": str(tiny_llama), "dtype": "float64", "device": "cpu"}
        return build_engine(EngineConfig(**model, block_size=4, kv_cache_memory=memory, **settings))

    return build


def tokens_of(engine: Engine, sent: list[Job], mode: Mode) -> tuple[list[list[int]], int]:
    """The token ids of all completions, and the number of preemptions."""
    scheduler = engine.scheduler(mode)
    run_jobs(scheduler, sent)
    outputs = scheduler.take_outputs()
    assert engine.pool.num_free == engine.pool.num_blocks
    return [output.token_ids for output in outputs], scheduler.num_preemptions


def through_msgspec(engine: Engine) -> list[StepBatch]:
    """Serialize every batch between the engine's planner and runner. Returns the list of decoded batches."""
    launch, seen = engine.runner.launch, []

    def remote_launch(batch: StepBatch) -> Launch:
        decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=StepBatch)
        assert decoded == batch
        seen.append(decoded)
        return launch(decoded)

    engine.runner.launch = remote_launch  # type: ignore[method-assign]
    return seen


@given(
    sent=st.lists(jobs, min_size=1, max_size=6),
    mode=st.sampled_from(["offline", "online"]),
    spare_blocks=st.integers(0, 4),
    overlap=st.booleans(),
    prefix_cache=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_batches_that_are_serialized_draw_the_same_tokens(
    tiny_pool_engine: Callable[..., Engine],
    sent: list[Job],
    mode: Mode,
    spare_blocks: int,
    overlap: bool,
    prefix_cache: bool,
) -> None:
    longest = max(len(job.prompt) + job.params.max_new_tokens for job in sent)
    num_blocks = -(-longest // 4) + spare_blocks
    found = []
    for serialized in (False, True):
        engine = tiny_pool_engine(
            num_blocks, overlap=overlap, prefix_cache=prefix_cache, max_batch_size=4, max_batch_tokens=24
        )
        batches = through_msgspec(engine) if serialized else []
        found.append(tokens_of(engine, sent, mode))
    assert found[0] == found[1]
    assert batches or not any(found[1][0]), "tokens come from batches"


def test_loads_that_preempt_share_prefixes_and_abort_are_among_those_serialized(
    tiny_pool_engine: Callable[..., Engine],
) -> None:
    """The property above relies on such loads: this one has all of it."""
    prompt = tuple(range(1, 13))
    sampled = SamplingParams(max_new_tokens=16, temperature=0.9, n=3, stop_on_eos=False, frequency_penalty=0.5)
    plain = SamplingParams(max_new_tokens=20, stop_on_eos=False)
    sent = [
        Job(prompt, plain, 0, None),
        Job(prompt, sampled, 1, None),
        Job((*prompt, 40), plain, 2, 9),
        Job((7,), plain, 3, None),
    ]
    settings: dict[str, Any] = {"max_batch_size": 4, "max_batch_tokens": 24, "overlap": True}
    expected, preemptions = tokens_of(tiny_pool_engine(14, **settings), sent, "online")
    engine = tiny_pool_engine(14, **settings)
    batches = through_msgspec(engine)
    assert tokens_of(engine, sent, "online") == (expected, preemptions)
    assert preemptions > 0
    assert engine.pool.statistics.hit_tokens > 0
    assert len(expected[4]) < 20, "the third request was aborted"
    assert any(batch.block_copies for batch in batches), "completions of one prompt share its last block"
    assert any(start.cached_token_ids for batch in batches for start in batch.row_starts)


def test_a_batch_with_everything_in_it_survives_serialization() -> None:
    batch = StepBatch(
        rows=[3],
        starts=[7],
        lengths=[2],
        samples=[True],
        token_ids=[5, -1],
        decode_steps=2,
        graph=GraphKey(4, "top_k", 64),
    )
    decoded = msgspec.json.decode(msgspec.json.encode(batch), type=StepBatch)
    assert decoded == batch
    assert isinstance(decoded.graph, GraphKey)


@given(
    sent=st.lists(jobs, min_size=2, max_size=6),
    mode=st.sampled_from(["naive", "offline", "online"]),
    spare_blocks=st.integers(0, 4),
    overlap=st.booleans(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_label_of_a_step_is_that_of_the_plan_that_ran(
    tiny_pool_engine: Callable[..., Engine], sent: list[Job], mode: Mode, spare_blocks: int, overlap: bool
) -> None:
    longest = max(len(job.prompt) + job.params.max_new_tokens for job in sent)
    engine = tiny_pool_engine(-(-longest // 4) + spare_blocks, overlap=overlap, max_batch_size=4, max_batch_tokens=24)
    scheduler = engine.scheduler(mode)
    batches = through_msgspec(engine)
    labels: list[str] = []

    def span(name: str, label: Callable[[], str] | None = None) -> Any:
        if name == "roseinfer.step":
            assert label is not None
            labels.append(label())
        return nullcontext()

    ran: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedulers, "span", span)
        run_jobs(scheduler, sent, lambda _: ran.append(scheduler.last_plan.label) if scheduler.last_plan else None)
    assert labels == ran
    assert [int(label.rpartition("=")[2]) for label in labels] == [batch.num_tokens for batch in batches]


@given(sent=st.lists(jobs, min_size=1, max_size=5), overlap=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_looking_at_the_next_plan_changes_no_state(
    tiny_pool_engine: Callable[..., Engine], sent: list[Job], overlap: bool
) -> None:
    sent = [replace(job, arrives_at=0, aborts_after=None) for job in sent]  # nothing changes between two steps
    longest = max(len(job.prompt) + job.params.max_new_tokens for job in sent)
    limits: dict[str, Any] = {"overlap": overlap, "max_batch_size": 4, "max_batch_tokens": 24}
    expected = tokens_of(tiny_pool_engine(-(-longest // 4) + 2, **limits), sent, "online")
    engine = tiny_pool_engine(-(-longest // 4) + 2, **limits)
    scheduler = engine.scheduler("online")
    planned: StepPlan | None = None

    def look(_events: object) -> None:
        nonlocal planned
        assert planned is None or scheduler.last_plan == planned
        before = (engine.pool.num_free, scheduler.num_preemptions, scheduler.has_unfinished)
        planned = scheduler.next_plan()
        assert (engine.pool.num_free, scheduler.num_preemptions, scheduler.has_unfinished) == before
        assert planned is None or planned == scheduler.next_plan()

    run_jobs(scheduler, sent, look)
    assert ([output.token_ids for output in scheduler.take_outputs()], scheduler.num_preemptions) == expected
