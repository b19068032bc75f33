"""Searches for the largest value that meets an objective, as a function and on an engine of known step times."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scripted import ScriptedEngine

from roseinfer.bench.bisection import largest_that_meets, largest_whole_that_meets
from roseinfer.bench.grid import Cell
from roseinfer.bench.results import Search, Trial
from roseinfer.bench.slo import parse_slo
from roseinfer.bench.slo_search import find_largest, next_lower
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.errors import RoseinferError


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 256))
def test_the_largest_whole_number_is_found_where_small_ones_miss_too(least: int, most: int, highest: int) -> None:
    tried: list[int] = []

    def meets(value: int) -> bool:
        tried.append(value)
        return least <= value <= most

    found = largest_whole_that_meets(meets, highest=highest)
    assert len(tried) == len(set(tried)) <= 17
    assert set(tried) <= set(range(1, highest + 1))
    powers = {highest, *(2**power for power in range(9) if 2**power < highest)}
    if any(least <= power <= most for power in powers):
        assert found == min(most, highest)
    else:
        assert found is None


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


def test_the_largest_batch_is_the_last_whose_steps_are_short_enough() -> None:
    # A decode step takes 10 ms plus 1 ms per request: six requests take 16 ms.
    engine = ScriptedEngine(request_s=0.001, config=EngineConfig(max_batch_size=16))
    trials: list[Trial] = []
    found, search = find_largest(
        engine.as_engine, cell(), "max_batch_size", parse_slo("tpot=16.5ms"), on_trial=trials.append, clock=engine.clock
    )
    assert (found.max_batch_size, search.found, search.parameter) == (6, 6, "max_batch_size")
    assert found.workload.num_requests == 6
    assert [trial.value for trial in trials] == [16, 8, 4, 6, 7]
    assert search.trials == trials


def test_a_batch_limit_is_found_although_batch_1_misses_the_objective() -> None:
    # All eight requests arrive at once, and a request takes 50 ms: with batch 1 the last one waits for 350 ms.
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=16))
    slo = parse_slo("ttft=200ms,share=100%")
    found, _ = find_largest(engine.as_engine, cell(num_requests=8), "max_batch_size", slo, clock=engine.clock)
    assert found.max_batch_size == 16
    limited = replace(cell(num_requests=8), max_batch_size=1)
    with pytest.raises(RoseinferError, match="no --max-batch-size meets"):
        find_largest(engine.as_engine, limited, "max_batch_size", slo, clock=engine.clock)


def test_a_value_that_misses_in_the_final_run_gives_way_to_the_next_lower_one() -> None:
    slo = parse_slo("ttft=200ms")
    trials = [Trial(value=value, met_percent=met) for value, met in ((8, 10.0), (4, 95.0), (6, 90.0), (2, 50.0))]
    search = Search(parameter="max_batch_size", found=6, trials=trials)
    lower, after = next_lower(replace(cell(), max_batch_size=6), search, slo, 66.7)
    assert (lower.max_batch_size, after.found) == (4, 4)
    assert [(trial.value, trial.met_percent) for trial in after.trials[4:]] == [(6, 66.7)]
    with pytest.raises(RoseinferError, match=r"no --max-batch-size meets .* repeatedly: .*at 4, 20 % of the requests"):
        next_lower(lower, after, slo, 20.0)


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
    # A request takes 50 ms, so the engine serves at most 20 per second, and fewer with a TTFT limit of 200 ms.
    assert 8 < search.found < 20
    assert found.workload.request_rate == search.found
    assert all((trial.met_percent >= 90) == (trial.value <= search.found) for trial in search.trials)


def rate_cell(num_requests: int, **workload: Any) -> Cell:
    """Return an online configuration with a batch limit of 2."""
    return Cell(
        name="run",
        mode="online",
        max_batch_size=2,
        workload=WorkloadConfig(prompt_length=10, num_requests=num_requests, **workload),
        sampling=SamplingParams(max_new_tokens=5),
    )


def find_rate(slo: str, searched: Cell, **engine: Any) -> tuple[Search, float]:
    """Search for a rate; return the search and the simulated seconds that it took."""
    scripted = ScriptedEngine(config=EngineConfig(max_batch_size=2), **engine)
    started_s = scripted.clock.now_s()
    _, search = find_largest(scripted.as_engine, searched, "request_rate", parse_slo(slo), clock=scripted.clock)
    return search, scripted.clock.now_s() - started_s


@pytest.mark.parametrize("workload", [{}, {"burst_size": 12}, {"turns": 3}])
def test_a_rate_search_ends_when_the_load_is_too_short_for_a_tighter_answer(workload: Any) -> None:
    search, _ = find_rate("ttft=10s", rate_cell(12, **workload))
    assert search.load_too_short
    assert search.found == search.trials[-1].value < 400
    assert all(trial.met_percent == 100 for trial in search.trials)
    served = [trial.requests_per_s for trial in search.trials]
    # A pair of requests takes 2 x 10 ms of prefill and 40 ms of shared decode steps.
    assert all(rate is not None and rate < 2 / 0.06 + 1 for rate in served)


def test_a_longer_load_shows_the_largest_rate() -> None:
    search, _ = find_rate("ttft=200ms", rate_cell(200))
    assert not search.load_too_short
    assert 15 < search.found < 35


def test_a_rate_search_starts_at_the_rate_of_one_request_at_a_time() -> None:
    assert find_rate("ttft=10s", rate_cell(12))[0].trials[0].value == pytest.approx(1 / 0.05)
    assert find_rate("ttft=10s", rate_cell(12), decode_s=10.0)[0].trials[0].value == pytest.approx(1 / 40.01)


def test_a_rate_search_fails_at_once_if_no_request_alone_meets_the_objective() -> None:
    scripted = ScriptedEngine(config=EngineConfig(max_batch_size=2))
    started_s = scripted.clock.now_s()
    with pytest.raises(RoseinferError, match=r"no --request-rate meets ttft=1ms,share=90%: .* median TTFT 10 ms$"):
        find_largest(scripted.as_engine, rate_cell(1000), "request_rate", parse_slo("ttft=1ms"), clock=scripted.clock)
    assert scripted.clock.now_s() - started_s < 2 * 8 * 0.0501, "eight requests, once to warm up and once timed"


def test_a_rate_search_ends_when_requests_hardly_overlap() -> None:
    # Fewer than 90 % of the requests meet the objective even when they run alone: no rate is low enough.
    mixed = rate_cell(40)
    mixed = msgspec.structs.replace(mixed, workload=msgspec.structs.replace(mixed.workload, prompt_length="10..100"))
    scripted = ScriptedEngine(config=EngineConfig(max_batch_size=2))
    trials: list[Trial] = []
    with pytest.raises(RoseinferError, match="no --request-rate meets ttft=50ms"):
        find_largest(
            scripted.as_engine,
            mixed,
            "request_rate",
            parse_slo("ttft=50ms"),
            on_trial=trials.append,
            clock=scripted.clock,
        )
    # A request takes some 95 ms. At the last rate alone, at most an eighth of a request is in flight.
    assert trials[-1].value * 0.095 <= 1 / 8 < trials[-2].value * 0.095


def test_an_objective_out_of_reach_fails_with_the_measured_medians() -> None:
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=16))
    with pytest.raises(
        RoseinferError,
        match=r"no --max-batch-size meets tpot=5ms,share=90%: at 16, 0 % of .* at 1, 0 % of .*; median TPOT 10 ms",
    ):
        find_largest(engine.as_engine, cell(), "max_batch_size", parse_slo("tpot=5ms"), clock=engine.clock)
