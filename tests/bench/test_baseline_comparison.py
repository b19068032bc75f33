"""Comparing with a baseline: changes, their noise, and regressions."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripted_results import CELL, drawn, results

from roseinfer.bench.baseline_comparison import (
    check_comparable,
    compare,
    comparison,
    differences,
    read_baseline,
)
from roseinfer.bench.results import Change, DataParallel
from roseinfer.cli.comparison_limit import parse_percent
from roseinfer.config import EngineConfig, SamplingParams, WorkloadConfig
from roseinfer.errors import UsageError
from roseinfer.workload.provenance import ModelInfo


def changes(before: list[float], after: list[float]) -> dict[str, Change]:
    return {change.metric: change for change in compare(results(before), results(after).runs)}


def test_a_slower_step_shows_in_rate_and_latencies_with_its_direction() -> None:
    found = changes([0.010], [0.011])
    assert found["decode step, ms"].change_percent == pytest.approx(10)
    assert found["TPOT, ms"].worse_percent == pytest.approx(10)
    assert found["completion tokens/s"].change_percent == pytest.approx(-100 / 11)
    assert found["completion tokens/s"].worse_percent == pytest.approx(100 / 11)
    assert found["decode step, ms"].is_regression(5)
    assert not found["decode step, ms"].is_regression(15)


def test_a_faster_step_is_no_regression() -> None:
    assert not any(change.is_regression(0) for change in changes([0.010], [0.009]).values())


def test_noise_is_twice_the_standard_error_of_the_difference() -> None:
    found = changes([0.009, 0.010, 0.011], [0.010, 0.011, 0.012])["decode step, ms"]
    # Both sides have a standard deviation of 1 ms over three repeats.
    assert found.noise_percent == pytest.approx(100 * 2 * (2 * 1 / 3) ** 0.5 / 10)
    assert found.change_percent == pytest.approx(10)
    assert not found.is_regression(5), "10 % is less than the noise of 16 %"


def test_figures_that_were_not_measured_are_not_compared() -> None:
    before, after = results([0.010], new_tokens=1), results([0.011], new_tokens=1)
    assert [change.metric for change in compare(before, after.runs)] == ["completion tokens/s", "TTFT, ms"]


def test_a_baseline_without_the_run_is_refused() -> None:
    with pytest.raises(UsageError, match="no run named other, only online"):
        compare(results([0.01]), results([0.01], name="other").runs)


def test_other_differences_are_listed() -> None:
    now = results([0.01], prompt_length=5)
    now = msgspec.structs.replace(now, model=ModelInfo("m", "gpt2", 1, "bfloat16"))
    assert differences(results([0.01]), now) == [
        "dtype: float32 then, bfloat16 now",
        "online: another workload (prompt_length: 4 then, 5 now)",
    ]


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({"compile": True}, "compile: unset then, on now"),
        ({"quantize": "int8"}, "quantize: auto then, int8 now"),
        ({"attention": "gather"}, "attention: paged then, gather now"),
        ({"overlap": False}, "overlap: unset then, off now"),
        ({"cuda_graphs": False}, "cuda_graphs: on then, off now"),
        ({"kv_cache_memory": "1GiB"}, "kv_cache_memory: unset then, 1GiB now"),
        ({"max_decode_steps": 1}, "max_decode_steps: 16 then, 1 now"),
    ],
)
def test_other_engine_settings_are_listed_and_compared(engine: dict[str, Any], expected: str) -> None:
    before = results([0.01])
    now = msgspec.structs.replace(before, engine=EngineConfig(**engine))
    assert differences(before, now) == [expected]
    check_comparable(before, now.model, [CELL])


def test_another_batch_limit_is_another_setting_and_with_drawn_prompts_another_load() -> None:
    before = results([0.01])
    larger = [msgspec.structs.replace(run, max_batch_size=9) for run in before.runs]
    now = msgspec.structs.replace(before, runs=larger)
    assert differences(before, now) == ["online: max_batch_size: 1 then, 9 now"]
    several = DataParallel(engines=2, alone=before.runs[0].completion_tokens_per_s, speedup=1.9)
    shared = [msgspec.structs.replace(run, data_parallel=several) for run in before.runs]
    assert differences(before, msgspec.structs.replace(before, runs=shared)) == ["online: engines: 1 then, 2 now"]
    cell = msgspec.structs.replace(CELL, max_batch_size=9, workload=WorkloadConfig(prompt_length=4, num_requests=None))
    with pytest.raises(UsageError, match=r"something else: online: another workload \(num_requests: 1 then, 9 now\)"):
        check_comparable(before, before.model, [cell])


def test_another_load_or_a_model_of_another_size_is_not_comparable() -> None:
    before = results([0.01])
    renamed = ModelInfo("copies/m", "gpt2", 1, "float32")
    check_comparable(before, renamed, [CELL])
    with pytest.raises(
        UsageError, match=r"model: m \(gpt2, 0.0 M parameters\) then, m \(llama, 3.0 M parameters\) now"
    ):
        check_comparable(before, ModelInfo("m", "llama", 3_000_000, "float32"), [CELL])
    with pytest.raises(
        UsageError, match=r"another workload .*max_new_tokens: 11 then, 12 now.* leave --fail-above out"
    ):
        check_comparable(before, renamed, [msgspec.structs.replace(CELL, sampling=SamplingParams(max_new_tokens=12))])


def test_a_length_given_as_a_number_equals_one_given_as_a_string() -> None:
    before = results([0.01])
    check_comparable(before, before.model, [msgspec.structs.replace(CELL, workload=drawn(prompt_length="4"))])


def test_a_single_repeat_has_no_known_noise_but_can_regress() -> None:
    for before, after in (([0.010], [0.012]), ([0.010, 0.011, 0.012], [0.020]), ([0.010], [0.012, 0.013])):
        found = changes(before, after)["decode step, ms"]
        assert found.noise_percent is None
        assert found.is_regression(5)


def test_the_comparison_says_whether_anything_regressed() -> None:
    before, after = results([0.010]), results([0.012])
    found = comparison(Path("old.json"), before, after, 5.0)
    assert (found.baseline, found.limit_percent, found.regressed, found.differences) == ("old.json", 5.0, True, [])
    assert found.changes == compare(before, after.runs)
    assert not comparison(Path("old.json"), before, after, 30.0).regressed
    assert not comparison(Path("old.json"), before, after, None).regressed


def test_a_baseline_without_newer_fields_is_read(tmp_path: Path) -> None:
    document = msgspec.to_builtins(results([0.01]))
    del document["comparison"], document["runs"][0]["requests_per_s"]
    document["runs"][0]["completion_tokens_per_s"]["std"] = 0.0
    document["runs"][0]["search"] = {
        "parameter": "request_rate",
        "found": 1.0,
        "trials": [{"value": 1.0, "met_percent": 100.0}],
    }
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(document))
    assert compare(read_baseline(tmp_path / "old.json"), results([0.01]).runs)


def test_a_baseline_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    document = results([0.01])
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(document))
    assert read_baseline(tmp_path / "old.json") == document


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_file_that_is_not_a_result_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "old.json").write_bytes(content)
    with pytest.raises(UsageError, match="is not a result of bench --json"):
        read_baseline(tmp_path / "old.json")
    with pytest.raises(UsageError, match="cannot read --baseline"):
        read_baseline(tmp_path / "none.json")


def test_percentages() -> None:
    assert (parse_percent("5%"), parse_percent(" 2.5 "), parse_percent("0%")) == (5.0, 2.5, 0.0)
    for text in ("", "x", "-1%", "nan", "inf"):
        with pytest.raises(UsageError, match="give a percentage, such as 5%"):
            parse_percent(text)
