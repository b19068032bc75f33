"""Latencies and rates against figures computed by hand."""

from typing import Any

import msgspec
import pytest

from roseinfer.bench.metrics import decode_speed, itl, latency, outliers, prefill_speed, spread, tpot
from roseinfer.bench.request_figures import RequestFigures, request_figures
from roseinfer.bench.results import median_report
from roseinfer.costs.ceilings import Ceilings
from roseinfer.engine.outputs import RequestOutput
from roseinfer.workload.load_runner import WorkloadResult
from roseinfer.workload.step_record import StepRecord

CEILINGS = Ceilings(copy_bytes_per_s=1e9, flops_per_s=1e9)
NUM_BYTES = 5_000_000
"""Bytes that each step reads."""


def output(*token_times_s: float, submitted_s: float = 10.0) -> RequestOutput:
    return RequestOutput(
        request_id=0,
        sample_index=0,
        prompt_token_ids=[1, 2],
        token_ids=[7] * len(token_times_s),
        text="",
        finish_reason="length",
        submitted_s=submitted_s,
        token_times_s=list(token_times_s),
        logprobs=None,
    )


def figures(*token_times_s: float, arrival_s: float = 10.0) -> RequestFigures:
    """Return the figures of a request that was submitted one second after its arrival."""
    out = output(*token_times_s, submitted_s=arrival_s + 1)
    (found,) = request_figures(msgspec.structs.replace(result(), outputs=[out], arrivals_s=[arrival_s]), 0)
    return found


def step(phase: Any, tokens: int, wall_ms: float, batch: int | None = None) -> StepRecord:
    batch = batch or (tokens if phase == "decode" else 1)
    return StepRecord(
        phase=phase, batch=batch, tokens=tokens, context_tokens=tokens, bytes=NUM_BYTES, flops=0, wall_ms=wall_ms
    )


def result(*steps: StepRecord, add_s: float = 0.0, run_s: float = 1.0) -> WorkloadResult:
    return WorkloadResult(
        mode="online",
        started_s=0.0,
        add_s=add_s,
        run_s=run_s,
        arrivals_s=[0.0],
        outputs=[output(11.0, 12.0)],
        steps=list(steps),
        preemptions=0,
        queried_tokens=0,
        cached_tokens=0,
    )


def test_a_requests_latencies_are_those_of_its_token_times_after_its_arrival() -> None:
    four_tokens = figures(11.5, 12.0, 12.25, 13.5)
    assert four_tokens.ttft_s == 1.5
    assert four_tokens.itl_s == [0.5, 0.25, 1.25]
    assert four_tokens.tpot_s == pytest.approx(2.0 / 3)  # (E2E - TTFT) / (tokens - 1)
    assert four_tokens.e2e_s == 3.5


def test_a_single_token_has_no_time_between_tokens() -> None:
    one_token = figures(11.5)
    assert (one_token.ttft_s, one_token.e2e_s) == (1.5, 1.5)
    assert (one_token.itl_s, one_token.tpot_s) == ([], None)


def test_an_empty_completion_has_no_latencies() -> None:
    empty = figures()
    assert (empty.ttft_s, empty.itl_s, empty.tpot_s, empty.e2e_s) == (None, [], None, None)


def test_tpot_and_itl_are_different_figures() -> None:
    """ITL weights gaps equally, TPOT requests: a long and a short request together have different means."""
    both = [figures(11.0, 12.0, 13.0, 14.0), figures(11.0, 15.0)]
    gaps, per_token = itl(both), tpot(both)
    assert gaps is not None
    assert per_token is not None
    assert gaps.mean == pytest.approx(1750.0)
    assert per_token.mean == pytest.approx(2500.0)


def test_percentiles_are_interpolated_between_the_two_nearest_values() -> None:
    found = latency([0.4, 0.1, 0.3, 0.2])
    assert found is not None
    assert found.mean == pytest.approx(250.0)
    assert found.p50 == pytest.approx(250.0)
    assert found.p90 == pytest.approx(370.0)  # 0.3 + 0.7 x 0.1
    assert found.p99 == pytest.approx(397.0)


def test_no_durations_have_no_latency() -> None:
    assert latency([]) is None
    assert latency([None]) is None


def test_a_spread_has_the_sample_deviation() -> None:
    found = spread([10.0, 14.0, 12.0])
    assert (found.mean, found.median, found.std, found.min, found.max) == (12.0, 12.0, 2.0, 10.0, 14.0)


def test_a_single_value_has_no_spread() -> None:
    assert spread([5.0]).std is None


def test_decode_speed_is_over_the_steps_that_only_decode() -> None:
    first = result(step("prefill", 100, 50.0), step("decode", 4, 10.0), step("decode", 4, 30.0), step("mixed", 9, 99.0))
    second = result(step("decode", 2, 20.0), step("decode", 2, 40.0))
    found = decode_speed([first, second], CEILINGS)
    assert found is not None
    assert found.steps == 2  # of one repeat
    assert found.median_step_ms == 25.0
    assert found.tokens_per_s == pytest.approx(120.0)  # 12 tokens in 100 ms
    assert found.mbu_percent == pytest.approx(20.0)  # 20 MB in 100 ms, of 1 GB per second


def test_a_launch_of_several_decode_steps_counts_per_token() -> None:
    found = decode_speed([result(step("decode", 8, 40.0, batch=2), step("decode", 2, 10.0))], CEILINGS)
    assert found is not None
    assert found.median_step_ms == 10.0  # four steps of 10 ms, then one
    assert found.tokens_per_s == pytest.approx(200.0)


def test_prefill_speed_is_over_the_steps_that_only_compute_prompts() -> None:
    found = prefill_speed(
        [result(step("prefill", 100, 50.0), step("prefill", 20, 10.0), step("mixed", 9, 1.0))], CEILINGS
    )
    assert found is not None
    assert (found.steps, found.tokens_per_s) == (2, pytest.approx(2000.0))


def test_phases_that_never_ran_alone_have_no_speed() -> None:
    assert decode_speed([result(step("prefill", 3, 1.0))], CEILINGS) is None
    assert prefill_speed([result(step("decode", 3, 1.0))], CEILINGS) is None


@pytest.mark.parametrize(("totals_s", "median_s"), [([3.0], 3.0), ([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 3.0, 2.0], 2.0)])
def test_the_report_is_the_median_repeats(totals_s: list[float], median_s: float) -> None:
    report = median_report([result(add_s=0.25, run_s=total_s - 0.25) for total_s in totals_s])
    assert report.elapsed_total_s == pytest.approx(median_s)
    assert report.completion_tokens_per_s == pytest.approx(2 / median_s)
    assert report.total_tokens_per_s == pytest.approx(4 / median_s)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 1.1, 0.9, 1.0, 3.0], [4]),
        ([1.0, 1.0, 1.0, 1.01], []),  # 1 % from the median
        ([1.0, 1.0, 1.0, 1.5], [3]),
        ([1.0, 9.0, 1.0], []),  # fewer than four values
        ([1.0, 2.0, 3.0, 4.0, 5.0], []),
    ],
)
def test_outliers_are_far_from_the_other_values(values: list[float], expected: list[int]) -> None:
    assert outliers(values) == expected
