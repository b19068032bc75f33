"""One pass over a workload in each mode: its outputs, its step records, its report."""

from pathlib import Path
from typing import get_args

import pytest

from roseinfer.config import EngineConfig, Mode, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.engine.step_plan import StepPlan
from roseinfer.workload.load_plan import at_once
from roseinfer.workload.load_runner import OnStep, WorkloadResult, run_load
from roseinfer.workload.pass_report import Report

pytestmark = pytest.mark.usefixtures("single_threaded")

PROMPTS = ["one", "three", "one"]
FOUR_TOKENS = SamplingParams(max_new_tokens=4, stop_on_eos=False)


def run_prompts(
    engine: Engine, mode: Mode, prompts: list[str], params: SamplingParams, on_step: OnStep | None = None
) -> WorkloadResult:
    return run_load(engine, mode, at_once(prompts, params), on_step=on_step)


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu", max_batch_size=2))


@pytest.mark.parametrize("mode", get_args(Mode))
def test_every_request_is_answered_and_every_step_recorded(engine: Engine, mode: Mode) -> None:
    result = run_prompts(engine, mode, PROMPTS, FOUR_TOKENS)
    assert result.mode == mode
    assert [output.request_id for output in result.outputs] == [0, 1, 2]
    assert (
        sum(step.tokens for step in result.steps) == 11 + 3 * 3
    )  # the last token of each completion is never computed
    assert {step.batch for step in result.steps} <= ({1} if mode == "naive" else {1, 2})
    assert all(step.wall_ms > 0 for step in result.steps)
    assert all(step.context_tokens >= step.tokens for step in result.steps)
    assert result.preemptions == 0
    assert engine.pool.num_free == engine.pool.num_blocks


def test_a_pass_ends_when_on_step_returns_false(engine: Engine) -> None:
    seen: list[StepPlan] = []

    def two_steps(plan: StepPlan) -> bool:
        seen.append(plan)
        return len(seen) < 2

    result = run_prompts(engine, "online", PROMPTS, FOUR_TOKENS, on_step=two_steps)
    assert [(plan.phase, len(plan.chunks), plan.num_tokens) for plan in seen] == [("prefill", 2, 8), ("decode", 2, 2)]
    assert len(result.steps) == 2
    assert [output.finish_reason for output in result.outputs] == ["abort"] * 3
    assert engine.pool.num_free == engine.pool.num_blocks


def test_the_report_counts_token_ids_and_divides_by_the_elapsed_time(engine: Engine) -> None:
    result = run_prompts(engine, "online", PROMPTS, FOUR_TOKENS)
    report = Report.of(result)
    assert (report.mode, report.requests) == ("online", 3)
    assert (report.prompt_tokens, report.completion_tokens, report.total_tokens) == (11, 12, 23)
    assert report.elapsed_total_s == pytest.approx(result.add_s + result.run_s)
    assert report.completion_tokens_per_s == pytest.approx(12 / report.elapsed_total_s)
    assert report.total_tokens_per_s == pytest.approx(23 / report.elapsed_total_s)
    assert report.requests_per_s == pytest.approx(3 / report.elapsed_total_s)
    assert dict(report.lines())["Completion tokens"] == "12"


def test_a_prompt_with_several_completions_is_one_request_and_counts_once(engine: Engine) -> None:
    twice = SamplingParams(max_new_tokens=4, stop_on_eos=False, n=2, temperature=1.0)
    report = Report.of(run_prompts(engine, "online", PROMPTS, twice))
    assert (report.requests, report.prompt_tokens, report.completion_tokens, report.total_tokens) == (3, 11, 24, 35)


def test_repeated_passes_draw_the_same_tokens(engine: Engine) -> None:
    drawn = SamplingParams(max_new_tokens=6, temperature=1.0)
    passes = [[out.token_ids for out in run_prompts(engine, "online", PROMPTS, drawn).outputs] for _ in range(2)]
    assert passes[0] == passes[1]
