"""Searches: the largest value that meets an objective, alone and on an engine of known step times."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine

from roseinfer.bench.bisection import largest_that_meets
from roseinfer.bench.grid import Cell
from roseinfer.bench.results import Search, Trial
from roseinfer.bench.slo import parse_slo
from roseinfer.bench.slo_search import find_largest
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


def rate_cell(num_requests: int, **workload: Any) -> Cell:
    """Online, two at a time."""
    return Cell(
        name="run",
        mode="online",
        max_batch_size=2,
        workload=WorkloadConfig(prompt_length=10, num_requests=num_requests, **workload),
        sampling=SamplingParams(max_new_tokens=5),
    )


def find_rate(slo: str, searched: Cell, **engine: Any) -> tuple[Search, float]:
    """The search, and the seconds that it took."""
    scripted = ScriptedEngine(config=EngineConfig(max_batch_size=2), **engine)
    started_s = scripted.clock.now_s()
    _, search = find_largest(scripted.as_engine, searched, "request_rate", parse_slo(slo), clock=scripted.clock)
    return search, scripted.clock.now_s() - started_s


@pytest.mark.parametrize("workload", [{}, {"burst_size": 12}, {"turns": 3}])
def test_a_rate_search_ends_where_the_load_is_too_short_to_say_more(workload: Any) -> None:
    search, _ = find_rate("ttft=10s", rate_cell(12, **workload))
    assert search.load_too_short
    assert search.found == search.trials[-1].value < 400
    assert all(trial.met_percent == 100 for trial in search.trials)
    served = [trial.requests_per_s for trial in search.trials]
    # Two at a time share their decode steps: 2 x 10 ms of prompts and 40 ms of decoding for each pair.
    assert all(rate is not None and rate < 2 / 0.06 + 1 for rate in served)


def test_a_limit_that_a_longer_load_has_is_found() -> None:
    search, _ = find_rate("ttft=200ms", rate_cell(200))
    assert not search.load_too_short
    assert 15 < search.found < 35


def test_a_rate_search_begins_at_what_one_request_after_another_makes() -> None:
    assert find_rate("ttft=10s", rate_cell(12))[0].trials[0].value == pytest.approx(1 / 0.05)
    assert find_rate("ttft=10s", rate_cell(12), decode_s=10.0)[0].trials[0].value == pytest.approx(1 / 40.01)


def test_a_rate_search_fails_at_once_where_no_request_alone_meets_the_objective() -> None:
    scripted = ScriptedEngine(config=EngineConfig(max_batch_size=2))
    started_s = scripted.clock.now_s()
    with pytest.raises(RoseinferError, match=r"no request_rate meets ttft=1ms,share=90%: .* median TTFT 10 ms$"):
        find_largest(scripted.as_engine, rate_cell(1000), "request_rate", parse_slo("ttft=1ms"), clock=scripted.clock)
    assert scripted.clock.now_s() - started_s < 2 * 8 * 0.0501, "the first eight, to warm up and to be timed"


def test_a_rate_search_ends_where_requests_hardly_meet_each_other() -> None:
    # Some of the prompts meet it alone, but never nine in ten: no rate is low enough.
    mixed = rate_cell(40)
    mixed = msgspec.structs.replace(mixed, workload=msgspec.structs.replace(mixed.workload, prompt_length="10..100"))
    scripted = ScriptedEngine(config=EngineConfig(max_batch_size=2))
    trials: list[Trial] = []
    with pytest.raises(RoseinferError, match="no request_rate meets ttft=50ms"):
        find_largest(
            scripted.as_engine,
            mixed,
            "request_rate",
            parse_slo("ttft=50ms"),
            on_trial=trials.append,
            clock=scripted.clock,
        )
    assert 2 <= len(trials) <= 6


def test_an_objective_out_of_reach_is_a_failed_run_that_says_what_was_seen() -> None:
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=16))
    with pytest.raises(
        RoseinferError, match=r"no max_batch_size meets tpot=5ms,share=90%: at 1, 0 % of .*; median TPOT 10 ms"
    ):
        find_largest(engine.as_engine, cell(), "max_batch_size", parse_slo("tpot=5ms"), clock=engine.clock)
