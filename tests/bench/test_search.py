"""Searches: the largest value that meets an objective, alone and on an engine of known step times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine

from roseinfer.bench.grid import Cell
from roseinfer.bench.results import Trial
from roseinfer.bench.search import largest_that_meets
from roseinfer.bench.session import find_largest
from roseinfer.bench.slo import parse_slo
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.errors import RoseinferError


@given(st.integers(0, 300), st.integers(1, 256), st.integers(1, 256))
def test_a_whole_number_is_found_exactly(limit: int, start: int, highest: int) -> None:
    tried: list[float] = []

    def meets(value: float) -> bool:
        tried.append(value)
        return value <= limit

    found = largest_that_meets(meets, start=start, lowest=1, highest=highest, whole=True)
    assert found == (min(limit, highest) if limit >= 1 else None)
    assert len(tried) == len(set(tried)) <= 18
    assert all(value == int(value) for value in tried)


@given(st.floats(0.0005, 1e5))
def test_a_rate_is_found_within_its_precision_and_was_tried(limit: float) -> None:
    tried: list[float] = []

    def meets(value: float) -> bool:
        tried.append(value)
        return value <= limit

    found = largest_that_meets(meets, start=1.0, lowest=0.001, highest=1e4)
    if limit < 0.001:
        assert found is None
    else:
        assert found in tried
        assert found is not None
        assert found <= limit
        assert found >= min(limit / 1.05, 1e4) * 0.999


def cell(**workload: object) -> Cell:
    return Cell(
        name="run",
        mode="online",
        max_batch_size=16,
        workload=WorkloadConfig(prompt_length=10, **workload),  # type: ignore[arg-type]
        sampling=SamplingParams(max_new_tokens=5),
    )


def test_the_largest_batch_is_the_one_whose_steps_are_just_short_enough() -> None:
    # A decode step takes 10 ms and 1 ms a request: 16.5 ms are enough for six.
    engine = ScriptedEngine(request_s=0.001, config=EngineConfig(max_batch_size=16))
    trials: list[Trial] = []
    found, search = find_largest(
        engine.as_engine, cell(), "max_batch_size", parse_slo("tpot=16.5ms"), on_trial=trials.append, clock=engine.clock
    )
    assert (found.max_batch_size, search.found, search.parameter) == (6, 6, "max_batch_size")
    assert found.workload.num_requests == 6
    assert [trial.value for trial in trials] == [1, 2, 4, 8, 6, 7]
    assert search.trials == trials


def test_a_batch_that_never_misses_ends_at_the_engines_limit() -> None:
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=16))
    found, _ = find_largest(engine.as_engine, cell(), "max_batch_size", parse_slo("tpot=1s"), clock=engine.clock)
    assert found.max_batch_size == 16


def test_the_largest_rate_leaves_time_between_arrivals() -> None:
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=1))
    one_at_a_time = Cell(
        name="run",
        mode="online",
        max_batch_size=1,
        workload=WorkloadConfig(prompt_length=10, num_requests=60),
        sampling=SamplingParams(max_new_tokens=5),
    )
    slo = parse_slo("ttft=200ms,share=90%")
    found, search = find_largest(engine.as_engine, one_at_a_time, "request_rate", slo, clock=engine.clock)
    # A request takes 50 ms, so the engine serves 20 a second at most, and with a queue this short fewer.
    assert 8 < search.found < 20
    assert found.workload.request_rate == search.found
    assert all((trial.met_percent >= 90) == (trial.value <= search.found) for trial in search.trials)


def test_an_objective_out_of_reach_is_a_failed_run_that_says_what_was_seen() -> None:
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=16))
    with pytest.raises(RoseinferError, match=r"no max_batch_size meets tpot=5ms,share=90%: at 1, 0 % of"):
        find_largest(engine.as_engine, cell(), "max_batch_size", parse_slo("tpot=5ms"), clock=engine.clock)
