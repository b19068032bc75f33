"""Findings and bounds lead to changes of settings, and each change has a bound that holds."""

import ast
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from roseinfer.advice.lever_bounds import lever_bounds
from roseinfer.advice.levers import (
    ADVISED_BY,
    LEVERS,
    Situation,
    applied,
    as_options,
    changed,
    proposals,
    rule_of,
)
from roseinfer.advice.trial_messages import ELSEWHERE
from roseinfer.cli.config_flags import CONFIG_FLAGS
from roseinfer.config import EngineConfig, Mode
from roseinfer.trace import Summary, summarize_trace

ROOT = Path(__file__).parents[2]
OWN_CPU_RUN = ROOT / "tests" / "trace" / "data" / "verdicts" / "own_cpu_run"
GATHERED = ROOT / "tests" / "trace" / "data" / "origin_gather_decode_h200.json.gz"


def situation(*, is_gpu: bool = False, mode: Mode = "offline", **engine: Any) -> Situation:
    settings = EngineConfig(**{"max_batch_size": 8, "max_batch_tokens": 2048, **engine})
    return Situation(
        engine=settings,
        is_gpu=is_gpu,
        num_gpus=2 * is_gpu,
        threads=1,
        cores=2,
        requests=16,
        prompt_tokens=16 * 512,
        mode=mode,
        shares_prefixes=True,
        is_quantized_file=False,
    )


SLOW: dict[str, Any] = {
    "attention": "gather",
    "compile": False,
    "overlap": False,
    "cuda_graphs": False,
    "max_decode_steps": 1,
    "dtype": "float32",
    "prefix_cache": False,
}
FAST: dict[str, Any] = {
    "compile": True,
    "overlap": True,
    "quantize": "int4",
    "tensor_parallel": 2,
    "threads": 2,
    "max_batch_size": 16,
    "max_batch_tokens": 1 << 14,
}


def rules_in(folder: str) -> set[str]:
    """Return the ids that the package gives to findings, or to what-if bounds."""
    found: set[str] = set()
    for path in (ROOT / "roseinfer" / "trace" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id == "FindingMaker" and isinstance(node.args[1], ast.Constant):
                    found.add(str(node.args[1].value))
                if node.func.id == "_bound" and isinstance(node.args[0], ast.Constant):
                    found.add(str(node.args[0].value))
    return found


def test_every_rule_of_a_verdict_and_every_bound_is_in_the_table() -> None:
    assert len(rules_in("verdict")) > 15
    assert rules_in("verdict") <= set(ADVISED_BY)
    bounds = rules_in("findings") | {"no_launch_gaps", "one_launch_per_step", "one_kernel_per_call"}
    assert rules_in("verdict") | bounds == set(ADVISED_BY)
    assert {name for names in ADVISED_BY.values() for name in names} == set(LEVERS)


def test_bounds_of_a_trace_have_ids_of_the_table() -> None:
    bounds = summarize_trace(GATHERED).what_if
    assert "one_kernel_per_call|roseinfer.decode_step_sessions.build_batched_past" in {each.id for each in bounds}
    assert {rule_of(each.id) for each in bounds} <= set(ADVISED_BY)


@pytest.mark.parametrize("is_gpu", [False, True])
def test_every_setting_is_proposed_for_a_slow_run_and_none_for_a_fast_one(is_gpu: bool) -> None:
    found = proposals(list(ADVISED_BY), situation(is_gpu=is_gpu, mode="online", **SLOW))
    absent = {"compile", "threads", "quantize"} if is_gpu else {"graphs", "decode_steps", "tensor_parallel"}
    assert {each.lever for each in found} == set(LEVERS) - absent
    left = proposals(list(ADVISED_BY), situation(is_gpu=is_gpu, **FAST)._replace(threads=2))
    assert left == []


def test_a_change_is_proposed_once_by_the_largest_finding_and_with_what_it_needs() -> None:
    keys = ["launch_overhead|roseinfer.step", "repeated_launches|x", "no_idle_time", "matrix_products"]
    found = proposals(keys, situation(is_gpu=True, **SLOW))
    options = [as_options(each.settings) for each in found]
    assert len(options) == len(set(options))
    graphs = next(each for each in found if each.lever == "graphs")
    assert graphs.settings == {"cuda_graphs": True, "attention": "paged"}
    assert graphs.finding == keys[0]
    assert {"--max-decode-steps 4 --cuda-graphs --attention paged", "--overlap"} <= set(options)


def test_findings_that_no_setting_acts_on_propose_nothing() -> None:
    assert proposals(["memory_growth|x", "rank_waits", "unknown"], situation(**SLOW)) == []


def test_options_are_those_of_the_command_line_and_settings_are_valid() -> None:
    known = {flag.option for flag in CONFIG_FLAGS} | {f"--no-{flag.option[2:]}" for flag in CONFIG_FLAGS}
    for is_gpu in (False, True):
        now = situation(is_gpu=is_gpu, mode="online", **SLOW)
        for each in proposals(list(ADVISED_BY), now):
            engine = applied(now.engine, each.settings)
            assert changed(now.engine, each.settings) == each.settings
            assert msgspec.convert(msgspec.to_builtins(engine), EngineConfig) == engine
            assert {word for word in as_options(each.settings).split() if word.startswith("--")} <= known
    assert as_options({"overlap": False, "max_itl_ms": 500.0}) == "--no-overlap --max-itl-ms 500"
    assert get_args(Mode)


def bounds_of(summary: Summary, now: Situation) -> dict[str, float | None]:
    found = {}
    for each in proposals(list(ADVISED_BY), now):
        bounds = lever_bounds(each.lever, each.settings, now, summary)
        found[as_options(each.settings)] = None if bounds is None else bounds.of_recording(summary)
    return found


def test_bounds_of_a_cpu_run_are_its_floor_and_ratios() -> None:
    summary = summarize_trace(OWN_CPU_RUN)
    assert summary.roofline is not None
    row = summary.roofline.phases["decode"]
    found = bounds_of(summary, situation(**{**SLOW, "dtype": "bfloat16"}))
    assert found["--compile --attention paged"] == pytest.approx(100 * (1 - row.floor_ms / row.median_ms))
    for form, fewer in (("int8", 2), ("int4", 4)):
        quantized = found[f"--quantize {form} --compile --attention paged"]
        assert quantized == pytest.approx(100 * (1 - row.floor_ms / fewer / row.median_ms))
    assert found["--max-batch-size 16"] == found["--threads 2"] == 50
    assert found["--prefix-cache"] == 0
    online = situation(mode="online", **SLOW)
    assert bounds_of(summary, online)["--max-itl-ms 500"] is None


def test_bounds_of_a_gpu_run_are_idle_time_and_removed_work() -> None:
    summary = summarize_trace(GATHERED)
    assert summary.budget is not None
    found = bounds_of(summary, situation(is_gpu=True, **SLOW))
    total = summary.budget.phases["decode"]
    host_ms = sum(msgspec.structs.astuple(total.host_ms))
    wait = 100 * (host_ms + total.exposed_copy_ms) / total.wall_ms
    assert found["--overlap"] == pytest.approx(wait, abs=0.1)
    idle = 100 * (host_ms + total.queue_ms + total.exposed_copy_ms) / total.wall_ms
    assert found["--cuda-graphs --attention paged"] == 100  # the spans of this engine's cache have other names
    graphs = bounds_of(summary, situation(is_gpu=True, **{**SLOW, "attention": "paged"}))
    assert graphs["--cuda-graphs"] == graphs["--max-decode-steps 16 --cuda-graphs"] == pytest.approx(idle, abs=0.1)


def test_time_that_was_not_recorded_counts_as_if_all_of_it_could_be_saved() -> None:
    summary = summarize_trace(OWN_CPU_RUN)
    now = situation(**SLOW)
    compiled = lever_bounds("compile", {"compile": True}, now, summary)
    threads = lever_bounds("threads", {"threads": 2}, now, summary)
    assert compiled is not None
    assert threads is not None
    share = compiled.by_phase["decode"]
    assert compiled.of_pass({"decode": 3.0, "prefill": 1.0, ELSEWHERE: 1.0}) == pytest.approx(100 * (3 * share + 2) / 5)
    assert threads.of_pass({"decode": 3.0, "prefill": 1.0}) == pytest.approx(50)
