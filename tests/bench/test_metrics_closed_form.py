"""Every figure of a run against its closed form, on an engine of known step times and a simulated clock.

Four requests with 10 prompt tokens and 5 new tokens each arrive at once; the batch limit is 2. Prefill takes 1 ms per
token, a decode step 10 ms. Two requests prefill together (20 ms) and decode four steps (40 ms); then the other two do.
"""

import dataclasses
from typing import Any

import pytest
from scripted import ScriptedEngine

from roseinfer.bench.cell_measurement import measure_cell
from roseinfer.bench.grid import Cell
from roseinfer.bench.results import BenchRun, bench_run
from roseinfer.bench.slo import Slo, parse_slo
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.costs.ceilings import Ceilings
from roseinfer.costs.step import step_cost

CEILINGS = Ceilings(1e6, 1e6)


def measured(
    engine: ScriptedEngine | None = None,
    *,
    repeats: int = 3,
    slo: Slo | None = None,
    new_tokens: int = 5,
    batch: int = 2,
    **workload: Any,
) -> BenchRun:
    engine = engine or ScriptedEngine()
    fields = {"mode": "offline", "prompt_length": 10, "num_requests": 4, **workload}
    cell = Cell(
        name="run",
        mode=fields["mode"],
        max_batch_size=batch,
        workload=WorkloadConfig(**fields),
        sampling=SamplingParams(max_new_tokens=new_tokens),
    )
    result = measure_cell(engine.as_engine, cell, repeats=repeats, clock=engine.clock)
    return bench_run(result, CEILINGS, startup_s=1.5, slo=slo)


def test_counts_and_elapsed_parts() -> None:
    run = measured(ScriptedEngine(submit_s=0.0025))
    assert (run.requests, run.prompt_tokens, run.completion_tokens, run.total_tokens) == (4, 40, 20, 60)
    assert (run.elapsed_s.add, run.elapsed_s.run, run.elapsed_s.total) == pytest.approx((0.010, 0.120, 0.130))
    assert run.completion_tokens_per_s.mean == pytest.approx(20 / 0.130)
    assert run.total_tokens_per_s.mean == pytest.approx(60 / 0.130)
    assert (run.warmup, run.repeats, len(run.per_repeat), run.startup_s) == (1, 3, 3, 1.5)


def test_latencies_count_from_arrival() -> None:
    run = measured()
    # Two requests have their first token after 20 ms, two after 80 ms; the last token follows 40 ms later.
    assert run.ttft_ms is not None
    assert (run.ttft_ms.mean, run.ttft_ms.p50) == pytest.approx((50, 50))
    assert (run.ttft_ms.p90, run.ttft_ms.p99) == pytest.approx((80, 80))
    assert run.e2e_ms is not None
    assert (run.e2e_ms.mean, run.e2e_ms.p99) == pytest.approx((90, 120))


def test_percentiles_are_interpolated_between_the_nearest_requests() -> None:
    run = measured(repeats=1, num_requests=3, batch=1)
    # First tokens after 10, 60 and 110 ms: the 90th percentile is 8/10 of the way from the second to the third.
    assert run.ttft_ms is not None
    assert (run.ttft_ms.p50, run.ttft_ms.p90, run.ttft_ms.p99) == pytest.approx((60, 100, 109))


def test_itl_sees_the_gap_that_tpot_averages_away() -> None:
    # The second request arrives while the first decodes: its prefill of 40 ms makes one gap of 50 ms among four.
    engine = ScriptedEngine()
    run = measured(engine, repeats=1, mode="online", num_requests=2, prompt_length=40, request_rate=22.0, seed=_seed())
    assert run.itl_ms is not None
    assert run.tpot_ms is not None
    assert run.itl_ms.p50 == pytest.approx(10)
    assert run.itl_ms.p99 == pytest.approx(50, abs=5)
    assert run.itl_ms.mean == pytest.approx((7 * 10 + 50) / 8)
    assert run.tpot_ms.p99 == pytest.approx(20, abs=0.2)
    assert run.tpot_ms.mean == pytest.approx((20 + 10) / 2)


def _seed() -> int:
    """Return a seed for which the second request arrives between 41 and 69 ms, while the first one decodes."""
    from roseinfer.workload.arrivals import arrival_times_s

    return next(seed for seed in range(1000) if 0.041 < arrival_times_s(2, 22.0, 1, seed)[1] < 0.069)


def test_decode_and_prefill_speeds() -> None:
    run = measured()
    assert run.decode is not None
    assert (run.decode.steps, run.decode.median_step_ms) == pytest.approx((8, 10))
    assert run.decode.tokens_per_s == pytest.approx(2 / 0.010)
    assert run.prefill is not None
    assert (run.prefill.steps, run.prefill.tokens_per_s) == pytest.approx((2, 1000))


def test_mbu_and_mfu_are_the_costs_over_time_and_ceilings() -> None:
    engine = ScriptedEngine()
    run = measured(engine)
    decode = sum(
        step_cost(engine.model_config, 4, tokens=2, context_tokens=2 * context, sampled=2).bytes
        for context in (11, 12, 13, 14)
    )
    prefill = step_cost(engine.model_config, 4, tokens=20, context_tokens=20, attention_pairs=110, sampled=2).flops
    assert run.decode is not None
    assert run.decode.mbu_percent == pytest.approx(100 * decode / 0.040 / 1e6)
    assert run.prefill is not None
    assert run.prefill.mfu_percent == pytest.approx(100 * prefill / 0.020 / 1e6)


def test_goodput_counts_the_requests_within_all_limits() -> None:
    run = measured(slo=parse_slo("ttft=20.5ms,tpot=10.5ms"))
    assert run.goodput is not None
    assert run.goodput.met_percent == 50
    assert run.goodput.requests_per_s == pytest.approx(2 / 0.120)
    strict = measured(slo=parse_slo("ttft=1s,tpot=9ms"))
    assert strict.goodput is not None
    assert strict.goodput.met_percent == 0


def test_shared_prefixes_hit_the_cache_and_each_repeat_starts_with_an_empty_one() -> None:
    run = measured(batch=1, num_requests=4, shared_prefix_length=8, prompt_length=2)
    # Blocks have four tokens: the 8 shared tokens of 10 are cached for all requests but the first.
    assert run.prefix_cache_hit_percent == pytest.approx(100 * 3 * 8 / 40)


def test_preemptions_are_counted_over_the_repeats() -> None:
    from roseinfer.cache.block_pool import BlockPool

    # Two requests of 10 + 5 tokens need four blocks each. With seven blocks, one request is preempted once.
    run = measured(ScriptedEngine(pool=BlockPool(7, 4, prefix_cache=False)), num_requests=2, repeats=2)
    assert run.preemptions == 2
    assert run.completion_tokens == 10


def test_a_single_new_token_has_no_gaps_to_measure() -> None:
    run = measured(new_tokens=1)
    assert (run.itl_ms, run.tpot_ms, run.decode) == (None, None, None)
    assert run.ttft_ms == run.e2e_ms


def test_repeats_that_differ_have_a_spread_and_their_median() -> None:
    engine = ScriptedEngine()
    times = iter([0.1, 0.02, 0.02, 0.04])  # the warm-up's step time, then those of the repeats

    @dataclasses.dataclass
    class Drifting(ScriptedEngine):
        def scheduler(self, mode: Any) -> Any:
            self.decode_s = next(times)
            return super().scheduler(mode)

    run = measured(Drifting(clock=engine.clock), num_requests=1, batch=1)
    rates = [5 / (0.010 + 4 * decode_s) for decode_s in (0.02, 0.02, 0.04)]
    spread = run.completion_tokens_per_s
    assert (spread.min, spread.median, spread.max) == pytest.approx((rates[2], rates[0], rates[0]))
    mean = sum(rates) / 3
    assert spread.mean == pytest.approx(mean)
    assert spread.std == pytest.approx((sum((rate - mean) ** 2 for rate in rates) / 2) ** 0.5)
    assert [repeat.decode_step_ms for repeat in run.per_repeat] == pytest.approx([20, 20, 40])
    assert run.elapsed_s.total == pytest.approx(0.090)


def test_the_engine_keeps_its_own_limit() -> None:
    engine = ScriptedEngine(config=EngineConfig(max_batch_size=8))
    run = measured(engine, batch=2)
    assert (run.max_batch_size, engine.config.max_batch_size) == (2, 8)
