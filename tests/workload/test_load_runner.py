"""Running a load on a simulated clock: arrivals, the time that counts as adding requests, and conversations."""

import pytest
from scripted import ScriptedEngine

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.step_plan import StepPlan
from roseinfer.workload.clock import WallClock
from roseinfer.workload.load_plan import PlannedRequest, at_once
from roseinfer.workload.load_runner import WorkloadResult, run_load


def request(prompt: int, new: int, arrival_s: float = 0.0, continues: int | None = None) -> PlannedRequest:
    params = SamplingParams(max_new_tokens=new)
    return PlannedRequest(prompt=list(range(prompt)), params=params, arrival_s=arrival_s, continues=continues)


def run(engine: ScriptedEngine, load: list[PlannedRequest], mode: Mode = "online") -> WorkloadResult:
    return run_load(engine.as_engine, mode, load, clock=engine.clock)


def test_a_single_request_takes_its_prefill_and_its_decode_steps() -> None:
    result = run(ScriptedEngine(decode_s=0.5, token_s=0.01), [request(10, 4)])
    (output,) = result.outputs
    assert output.token_times_s == pytest.approx([100.1, 100.6, 101.1, 101.6])
    assert (result.add_s, result.run_s) == pytest.approx((0.0, 1.6))
    assert [step.phase for step in result.steps] == ["prefill", "decode", "decode", "decode"]
    assert [step.context_tokens for step in result.steps] == [10, 11, 12, 13]
    assert [step.wall_ms for step in result.steps] == pytest.approx([100, 500, 500, 500])


def test_the_time_inside_submit_is_add_and_the_rest_is_run() -> None:
    engine = ScriptedEngine(decode_s=0.5, token_s=0.01, submit_s=0.25)
    result = run(engine, at_once([[1, 2], [3, 4]], SamplingParams(max_new_tokens=2)))
    assert (result.add_s, result.run_s) == pytest.approx((0.5, 0.54))


def test_requests_of_the_start_all_arrive_before_the_first_is_submitted() -> None:
    engine = ScriptedEngine(submit_s=0.25)
    result = run(engine, at_once([[1, 2], [3, 4]], SamplingParams(max_new_tokens=2)))
    assert result.arrivals_s == [100.0, 100.0]
    assert [output.submitted_s for output in result.outputs] == [100.0, 100.25]


def test_an_idle_engine_waits_for_the_next_arrival() -> None:
    result = run(ScriptedEngine(decode_s=0.5, token_s=0.01), [request(10, 2), request(4, 2, arrival_s=7.0)])
    assert result.arrivals_s == [100.0, 107.0]
    assert result.outputs[1].token_times_s == pytest.approx([107.04, 107.54])
    assert result.run_s == pytest.approx(7.54)


def test_a_busy_engine_submits_a_request_after_the_step_during_which_it_arrived() -> None:
    # The first request prefills from 100.0 to 100.1 s; the second arrives at 100.04 s, during that prefill.
    result = run(ScriptedEngine(decode_s=0.5, token_s=0.01), [request(10, 2), request(10, 2, arrival_s=0.04)])
    assert result.arrivals_s == pytest.approx([100.0, 100.04])
    assert result.outputs[1].submitted_s == pytest.approx(100.1)
    assert result.steps[1].phase == "mixed"


def test_arrivals_out_of_order_are_submitted_in_order_of_time() -> None:
    result = run(ScriptedEngine(), [request(10, 2, arrival_s=3.0), request(4, 2, arrival_s=1.0)])
    assert [len(output.prompt_token_ids) for output in result.outputs] == [4, 10]
    assert result.arrivals_s == [101.0, 103.0]


def test_a_later_turn_arrives_when_the_previous_turn_ends_and_its_prompt_is_the_conversation() -> None:
    result = run(ScriptedEngine(decode_s=0.5, token_s=0.01), [request(10, 3), request(5, 2, continues=0)])
    first, second = result.outputs
    assert second.prompt_token_ids == [*range(10), 7, 7, 7, *range(5)]
    assert result.arrivals_s == pytest.approx([100.0, first.token_times_s[-1]])


def test_a_later_turn_finds_the_conversation_in_the_prefix_cache() -> None:
    result = run(ScriptedEngine(), [request(10, 3), request(5, 2, continues=0)])
    # The first turn has 13 tokens. All but the last are computed: 12 tokens are three full blocks of four.
    assert (result.queried_tokens, result.cached_tokens) == (10 + 18, 12)


def test_a_pass_that_is_ended_early_returns_the_tokens_so_far() -> None:
    engine, seen = ScriptedEngine(), list[StepPlan]()

    def after_three(plan: StepPlan) -> bool:
        seen.append(plan)
        return len(seen) < 3

    load = [request(10, 9), request(5, 2, continues=0)]
    result = run_load(engine.as_engine, "online", load, clock=engine.clock, on_step=after_three)
    assert [output.finish_reason for output in result.outputs] == ["abort"]
    assert len(result.outputs[0].token_ids) == 3
    assert [(step.phase, step.tokens) for step in result.steps] == [(plan.phase, plan.num_tokens) for plan in seen]
    assert engine.pool.num_free == engine.pool.num_blocks


def test_the_wall_clock_waits_until_the_given_time_and_not_much_longer() -> None:
    clock = WallClock()
    until_s = clock.now_s() + 0.02
    clock.wait_until(until_s)
    assert 0 <= clock.now_s() - until_s < 1.0
    clock.wait_until(until_s)
