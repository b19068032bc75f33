"""Protocol of a measurement: a warm-up pass first, then repeats of equal work."""

import gc
from pathlib import Path

import pytest

from roseinfer.bench.metrics import Spread, spread
from roseinfer.bench.protocol import measure
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import UsageError
from roseinfer.progress import ProgressCallback
from roseinfer.workload.load_plan import at_once
from roseinfer.workload.pass_report import Report

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float32", device="cpu"))


def test_the_warm_up_is_an_untimed_pass(engine: Engine) -> None:
    passes: list[int] = []
    sampling = SamplingParams(max_new_tokens=3, temperature=1.0)
    results = measure(engine, "online", at_once(["a", "b"], sampling), repeats=2, on_pass=lambda: passes.append(1))
    assert (len(results), len(passes)) == (2, 3)
    first, second = ([out.token_ids for out in result.outputs] for result in results)
    assert first == second
    assert gc.isenabled()


def test_no_repeat_profits_from_an_earlier_one(engine: Engine) -> None:
    """A prefix cache that outlived a pass would make prompts free in every later pass."""
    sampling = SamplingParams(max_new_tokens=2, stop_on_eos=False)
    for result in measure(engine, "online", at_once(["x" * 100], sampling), repeats=2):
        assert [step.tokens for step in result.steps] == [100, 1]


def test_graphs_that_the_repeats_need_are_captured_after_the_warm_up(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(engine.runner, "capture_missing", lambda: told.append("graphs"))
    measure(engine, "online", at_once(["a"], SamplingParams()), repeats=2, on_pass=lambda: told.append("pass"))
    assert told == ["graphs", "pass", "pass", "pass"]


def test_progress_moves_within_each_pass_and_reaches_the_end(engine: Engine) -> None:
    stages: dict[str, list[tuple[int, int]]] = {}

    def on_stage(name: str, unit: str) -> ProgressCallback:
        assert unit == ""
        reports = stages.setdefault(name, [])
        return lambda done, total: reports.append((done, total))

    load = at_once(["a", "b", "c"], SamplingParams(max_new_tokens=5, stop_on_eos=False))
    measure(engine, "online", load, repeats=2, on_stage=on_stage)
    assert list(stages) == ["warm-up", "pass 1 of 2", "pass 2 of 2"]
    for reports in stages.values():
        assert len(reports) >= 5
        assert reports == sorted(reports)
        assert reports[-1] == (15, 15)


def test_a_workload_that_computes_nothing_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="--max-new-tokens 0 leaves nothing to measure"):
        measure(engine, "online", at_once(["a"], SamplingParams(max_new_tokens=0)), repeats=1)


def test_the_same_workload_twice_agrees_within_the_spread_it_reports(engine: Engine) -> None:
    load = at_once(["a fairly long prompt", "b"], SamplingParams(max_new_tokens=24, stop_on_eos=False))

    def measured() -> Spread:
        results = measure(engine, "online", load, repeats=9)
        return spread([Report.of(result).completion_tokens_per_s for result in results])

    def agree() -> bool:
        first, second = measured(), measured()
        noise = 2 * (first.std**2 + second.std**2) ** 0.5
        return abs(first.median - second.median) <= noise

    # Other work on the machine may disturb one of the two measurements.
    assert any(agree() for _ in range(4))
