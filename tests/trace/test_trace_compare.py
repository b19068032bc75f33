"""Comparisons of two traces, and folders of ranks and cycles."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from step_traces import steps
from traces import TUTORIAL, event, kernel, launch, write

from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.errors import TraceError, UsageError
from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.comparing.trace_comparison import normalized


def summary_of(tmp_path: Path, name: str, *args: Any, **kwargs: Any) -> Summary:
    return summarize_trace(write(tmp_path / name, steps(*args, **kwargs)))


def test_a_trace_compared_with_itself_shows_no_change() -> None:
    tutorial = summarize_trace(TUTORIAL)
    found = compare(tutorial, tutorial, 0.0).comparison
    assert found is not None
    assert not found.failed
    assert all(phase.verdict == "no clear change" for phase in found.phases)
    assert all(row.change_percent in (0, None) for row in [*found.spans, *found.kernels, *found.launches])


def test_a_slower_step_is_called_slower_and_fails(tmp_path: Path) -> None:
    old = summary_of(tmp_path, "old", [100, 101, 99, 100])
    new = summary_of(tmp_path, "new", [120, 121, 119, 120], events=5)
    found = compare(new, old, 5.0).comparison
    assert found is not None
    phase = found.phases[0]
    assert (phase.verdict, phase.change_percent) == ("slower", 20.0)
    assert phase.new_ms_per_token == pytest.approx(0.03)
    assert found.failed
    assert not compare(new, old, 25.0).comparison.failed  # type: ignore[union-attr]
    assert not compare(old, new, 5.0).comparison.failed  # type: ignore[union-attr]
    launches = next(row for row in found.launches if row.name == "roseinfer.model.forward")
    assert (launches.baseline, launches.new) == (2, 5)


def test_a_change_within_the_noise_is_no_clear_change(tmp_path: Path) -> None:
    old = summary_of(tmp_path, "old", [100, 150, 60, 130])
    new = summary_of(tmp_path, "new", [110, 160, 65, 140])
    found = compare(new, old, 5.0).comparison
    assert found is not None
    assert found.phases[0].verdict == "no clear change"
    assert not found.failed


def warnings_of(new: Summary, old: Summary) -> str:
    found = compare(new, old).comparison
    assert found is not None
    return "\n".join(found.warnings)


def test_an_empty_trace_compares_with_nothing(tmp_path: Path) -> None:
    work = summary_of(tmp_path, "work", [100, 101, 99])
    (tmp_path / "empty").write_text('{"traceEvents": []}')
    empty = summarize_trace(tmp_path / "empty")
    for new, old in ((work, empty), (empty, work), (empty, empty)):
        with pytest.raises(UsageError, match="empty holds no events"):
            compare(new, old)


def test_traces_without_a_phase_in_common_are_refused(tmp_path: Path) -> None:
    decode = summary_of(tmp_path, "decode", [100, 101, 99])
    prefill = summary_of(tmp_path, "prefill", [300], phase="prefill")
    with pytest.raises(UsageError, match=r"3 decode steps, .* has 1 prefill step: no phase in common"):
        compare(prefill, decode)


def test_traces_without_a_window_in_common_are_refused(tmp_path: Path) -> None:
    device = summarize_trace(write(tmp_path / "device", [kernel(1, 2, 3)]))
    host = summarize_trace(write(tmp_path / "host", [event("cpu_op", "aten::mm", 0, 9)]))
    for new, old in ((device, host), (host, device)):
        with pytest.raises(UsageError, match="nothing to compare"):
            compare(new, old)


def test_a_trace_with_steps_and_one_without_compare_by_windows_with_a_warning(tmp_path: Path) -> None:
    marked = summary_of(tmp_path, "marked", [100, 101, 99])
    plain = summarize_trace(write(tmp_path / "plain", [launch(0, 2, 1), kernel(3, 200, 1)]))
    found = compare(plain, marked).comparison
    assert found is not None
    assert [phase.phase for phase in found.phases] == ["GPU window"]
    assert found.spans == found.kernels == found.launches == []
    assert any("only the baseline marks its steps" in line for line in found.warnings)


def test_each_phase_is_compared_with_the_same_phase(tmp_path: Path) -> None:
    """Two runs of the same code do not differ, even if one recorded more prefills."""

    def mixed(name: str, prefills: int) -> Summary:
        decode = steps([100, 100, 100])
        prefill = steps([400] * prefills, phase="prefill", kernel_us=50, events=3)
        for one in prefill:
            one["ts"] += 10_000
            if "correlation" in one.get("args", {}):
                one["args"]["correlation"] += 1000
        return summarize_trace(write(tmp_path / name, decode + prefill))

    found = compare(mixed("new", 2), mixed("old", 1)).comparison
    assert found is not None
    assert {row.phase for row in found.kernels} == {"decode", "prefill"}
    for row in (*found.spans, *found.kernels, *found.launches):
        assert row.change_percent == 0, row
    gemm = {row.phase: row.new for row in found.kernels}
    assert gemm == {"decode": 0.02, "prefill": 0.15}
    assert any(
        "3 decode steps and 1 prefill step in the baseline, 3 decode steps and 2 prefill steps now" in line
        for line in found.warnings
    )


def test_kernels_of_replays_count_for_the_phase_of_their_step(tmp_path: Path) -> None:
    graph = {"key": 1, "events": [{"name": "a", "span": "roseinfer.attention"}, {"name": "b", "span": None}]}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "graphs": [graph]}))
    events = []
    for step, phase in enumerate(("decode", "decode", "prefill")):
        at = 100 * step
        events.append(event("user_annotation", f"roseinfer.step[{phase} bs=1 tokens=1]", at, 90))
        events.append(launch(at + 5, 2, step + 1, "cudaGraphLaunch"))
        events += [kernel(at + 10, 4, step + 1, "a"), kernel(at + 20, 4, step + 1, "b")]
    costs = summarize_trace(write(tmp_path / "t.json", events)).phase_costs
    for phase in ("decode", "prefill"):
        assert costs[phase].spans["roseinfer.attention"].gpu_events == 1
        assert costs[phase].spans["roseinfer.step"].gpu_events == 2
        assert costs[phase].kernels == {"a": 0.004, "b": 0.004}


def test_operators_of_a_cpu_are_not_called_kernels(tmp_path: Path) -> None:
    def host(name: str, duration: float) -> Summary:
        spans = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 100 * one, 90) for one in range(3)]
        ops = [event("cpu_op", "aten::mm", 100 * one + 1, duration) for one in range(3)]
        return summarize_trace(write(tmp_path / name, spans + ops))

    report = compare(host("new", 20), host("old", 10))
    titles = [sheet.title for sheet in all_sheets(report, 5, "self")]
    assert "Operators of decode, ms per step" in titles
    assert not any("Kernels" in title for title in titles)


def test_warnings_of_the_baseline_are_shown(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", steps([100, 101, 99, 100]))
    (tmp_path / "broken").write_bytes(whole.read_bytes()[:-400])
    broken = summarize_trace(tmp_path / "broken")
    assert "baseline: The file is incomplete" in warnings_of(summarize_trace(whole), broken)


def test_differences_besides_the_code_are_warnings(tmp_path: Path) -> None:
    def made(name: str, manifest: dict[str, Any]) -> Summary:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"schema_version": 1, **manifest}))
        events = [one for one in steps([100, 101, 99, 100]) if one["cat"] == "user_annotation"]
        return summarize_trace(write(tmp_path / name / "t.json", [*events, event("cpu_op", "aten::mm", 5, 9)]))

    old = made("old", {"device": "CPU A", "model": {"name": "m", "dtype": "float32"}})
    same = made("same", {"device": "CPU A", "model": {"name": "m", "dtype": "float32"}})
    assert warnings_of(same, old) == ""
    options = {"engine": {"quantize": "int4"}, "profile": {"with_stack": True}}
    other = made("other", {"device": "CPU B", "model": {"name": "n", "dtype": "bfloat16"}, "config": options})
    found = warnings_of(other, old)
    assert "the device differs: CPU A in the baseline, CPU B now" in found
    assert "the model differs: m in the baseline, n now" in found
    assert "the dtype differs: float32 in the baseline, bfloat16 now" in found
    assert "with_stack was on for this trace only" in found
    assert "quantize" not in found  # the baseline's manifest does not say
    host = {"threads": 2, "cores": 2, "logical_cores": 2, "cores_used": 1.0, "cores_idle": 0.0}
    busy = made("busy", {"device": "CPU A", "host": {**host, "threads_waiting": 1.0}})
    quiet = made("quiet", {"device": "CPU A", "host": {**host, "threads_waiting": 0.02}})
    assert "other programs slowed the baseline down: its threads waited for a core for 50 %" in warnings_of(quiet, busy)
    assert "other programs slowed this run down" in warnings_of(busy, quiet)
    assert warnings_of(quiet, quiet) == ""
    third = made("third", {"device": "CPU A", "host": {**host, "threads_waiting": 0.6669}})
    assert third.recording.waiting_percent == 33.3


def test_profiler_options_recorded_in_the_trace_are_compared(tmp_path: Path) -> None:
    document = {"traceEvents": steps([100, 101, 99])}
    for name, more in (("old", {}), ("new", {"profile_memory": 1, "record_shapes": 1})):
        (tmp_path / name).write_text(json.dumps({**more, **document}))
    found = warnings_of(summarize_trace(tmp_path / "new"), summarize_trace(tmp_path / "old"))
    assert "profile_memory was on for this trace only" in found
    assert "record_shapes was on for this trace only" in found


def test_steps_of_another_batch_size_are_a_warning(tmp_path: Path) -> None:
    old = summary_of(tmp_path, "old", [100, 101, 99])
    events = steps([100, 101, 99])
    for one in events:
        one["name"] = one["name"].replace("bs=4 tokens=4", "bs=8 tokens=8")
    found = warnings_of(summarize_trace(write(tmp_path / "new", events)), old)
    assert "the work of a decode step differs: batch 4, tokens 4 in the baseline, batch 8, tokens 8 now" in found


def test_steps_of_more_tokens_are_compared_per_token(tmp_path: Path) -> None:
    old = summary_of(tmp_path, "old", [100, 101, 99])
    events = steps([400, 401, 399])
    for one in events:
        one["name"] = one["name"].replace("bs=4 tokens=4", "bs=4 tokens=64")
    found = compare(summarize_trace(write(tmp_path / "new", events)), old, 5.0).comparison
    assert found is not None
    assert not found.failed
    assert found.headline == "decode: faster, 25.00 us -> 6.25 us per token (-75.0 %, noise 1.2 %)"
    phase = found.phases[0]
    assert (phase.per, phase.timed_by, phase.baseline_ms, phase.new_ms) == ("token", "span", 0.1, 0.4)


def test_steps_of_a_host_that_runs_ahead_are_timed_from_end_to_end_of_their_work(tmp_path: Path) -> None:
    """Spans of 20 us that launch 90 us of GPU work, every 100 us: the step takes 100 us."""
    events: list[Any] = []
    for step in range(4):
        at = 100.0 * step
        events.append(event("user_annotation", "roseinfer.step[decode bs=4 tokens=4]", at, 20))
        events.append(launch(at + 2, 2, step + 1))
        events.append(kernel(at + 10, 90, step + 1, "gemm"))
    new = summarize_trace(write(tmp_path / "new", events))
    old = summary_of(tmp_path, "old", [195, 195, 195, 195])
    found = compare(new, old).comparison
    assert found is not None
    phase = found.phases[0]
    assert phase.timed_by == "wall"
    assert (phase.baseline_ms, phase.new_ms) == (0.2, 0.1)
    assert new.steps.phases["decode"].median_ms == 0.1


def test_steps_that_are_launched_long_before_they_run_are_timed_from_end_to_end(tmp_path: Path) -> None:
    """Four steps of 90 us of GPU work, launched within 80 us: from start to start, most would take 20 us."""
    events: list[Any] = []
    for step in range(4):
        at = 20.0 * step
        events.append(event("user_annotation", "roseinfer.step[decode bs=4 tokens=4]", at, 18))
        events.append(launch(at + 2, 2, step + 1))
        events.append(kernel(10 + 90.0 * step, 90, step + 1, "gemm"))
    new = summarize_trace(write(tmp_path / "new", events))
    found = compare(new, summary_of(tmp_path, "old", [195, 195, 195, 195])).comparison
    assert found is not None
    phase = found.phases[0]
    assert (phase.timed_by, phase.baseline_ms, phase.new_ms) == ("wall", 0.2, 0.09)


def test_a_gpu_run_compared_with_a_cpu_run_is_a_warning(tmp_path: Path) -> None:
    gpu = summary_of(tmp_path, "gpu", [100, 101, 99])
    cpu = summary_of(tmp_path, "cpu", [100, 101, 99], events=0)
    assert "only this trace holds GPU work" in warnings_of(gpu, cpu)


def test_kernels_compare_by_normalized_name() -> None:
    assert normalized("triton_poi_fused_add_12") == normalized("triton_poi_fused_add_34")
    assert normalized("k<{lambda()#1}>") == normalized("k<{lambda()#2}>")
    assert normalized("gemm_64x64") != normalized("gemm_128x64")
    assert normalized("<function add at 0x7f31>") == normalized("<function add at 0x7f32>")
    for name in ("nvjet_sm90_tst_80x64_64x11", "nvjet_sm90_tst_64x320_64x3"):  # tiles, and no addresses
        assert normalized(name) == name


def test_ranks_in_a_folder_are_one_summary(tmp_path: Path) -> None:
    for rank, durations in enumerate(([100, 100, 100], [140, 140, 140])):
        events = steps(durations, rank=rank)
        end = max(one["ts"] for one in events)
        events.append(kernel(end + 30, 40, 10**6, "ncclDevKernel_AllReduce_Sum_bf16", device=rank))
        events.append(kernel(end + 60, 40, 10**6 + 1, "gemm", device=rank, stream=9))
        document = {"distributedInfo": {"rank": rank, "world_size": 2}, "traceEvents": events}
        (tmp_path / f"rank{rank}-cycle0.pt.trace.json").write_text(json.dumps(document))
    (tmp_path / "manifest.json").write_text("{}")
    summary = summarize_trace(tmp_path)
    assert summary.trace.ranks == [0, 1]
    assert [(device.rank, device.id) for device in summary.devices] == [(0, 0), (1, 1)]
    assert [row.median_step_ms for row in summary.ranks] == [0.1, 0.14]
    assert [row.communication_ms for row in summary.ranks] == [0.04, 0.04]
    assert [row.exposed_communication_ms for row in summary.ranks] == [0.03, 0.03]
    assert (summary.steps.count, summary.steps.rank_steps) == (3, 6)
    assert summary.steps.phases["decode"].median_ms == 0.14


def test_cycles_of_one_rank_merge_without_the_time_between_them(tmp_path: Path) -> None:
    alone = summarize_trace(TUTORIAL)
    for cycle in range(2):
        (tmp_path / f"rank0-cycle{cycle}.pt.trace.json.gz").write_bytes(TUTORIAL.read_bytes())
    both = summarize_trace(tmp_path)
    assert alone.gpu is not None
    assert both.gpu is not None
    assert len(both.devices) == 1
    assert both.gpu.gpu_events == 2 * alone.gpu.gpu_events
    assert both.gpu.idle_ms == pytest.approx(2 * alone.gpu.idle_ms)
    assert both.gpu.idle_by_cause.host_late_ms == pytest.approx(2 * alone.gpu.idle_by_cause.host_late_ms)
    assert both.gpu.linked_percent == 100
    assert both.steps.count == 6
    assert both.verdict.kind == "host_bound"


def test_a_folder_without_traces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(TraceError, match="no trace in this folder"):
        summarize_trace(tmp_path)


def test_a_folder_of_runs_points_to_the_newest(tmp_path: Path) -> None:
    for name in ("20260101-120000-online", "20260102-120000-online"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    with pytest.raises(TraceError, match=r"summarize one, such as .*20260102-120000-online"):
        summarize_trace(tmp_path)
    (tmp_path / "latest").symlink_to("20260102-120000-online")
    with pytest.raises(TraceError, match=f"such as {tmp_path / 'latest'}"):
        summarize_trace(tmp_path)


def test_the_roofline_needs_a_manifest_with_work_and_ceilings(tmp_path: Path) -> None:
    path = write(tmp_path / "rank0-cycle0.pt.trace.json", steps([100, 100, 100]))
    assert summarize_trace(path).roofline is None
    work = [
        {"index": index, "phase": "decode", "batch": 4, "tokens": 4, "bytes": 5e6, "flops": 1e6} for index in range(3)
    ]
    manifest = {
        "schema_version": 1,
        "ceilings": {"copy_bytes_per_s": 1e11, "flops_per_s": 1e12},
        "baseline_step_ms": {"decode": 0.08},
        "steps": work,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    roofline = summarize_trace(path).roofline
    assert roofline is not None
    decode = roofline.phases["decode"]
    assert (decode.bound, decode.floor_ms, decode.mbu_percent) == ("memory", 0.05, 62.5)
    assert roofline.source == "baseline"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no valid JSON"),
        ("", "no valid JSON"),
        ('{"steps": 3, "graphs": [{"events": 1}], "ceilings": "x"}', "do not fit: ceilings, steps, graphs"),
    ],
)
def test_a_broken_manifest_is_a_warning_and_changes_nothing_else(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "t.json", steps([100, 100, 100]))
    expected = summarize_trace(path)
    (tmp_path / "manifest.json").write_text(text)
    found = summarize_trace(path)
    assert found.trust[0].level == "warning"
    assert "manifest.json" in found.trust[0].message
    assert said in found.trust[0].message
    assert msgspec.structs.replace(found, trust=found.trust[1:]) == expected


@pytest.mark.parametrize("text", ["[]", '{"name": "of another tool", "version": 3}'])
def test_a_manifest_of_another_tool_is_ignored(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "t.json", steps([100, 100, 100]))
    expected = summarize_trace(path)
    (tmp_path / "manifest.json").write_text(text)
    assert summarize_trace(path) == expected


def test_outliers_are_named(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, "t", [100, 101, 99, 100, 400, 100])
    assert [(one.step, one.times_median) for one in summary.steps.outliers] == [(4, 4.0)]


def test_no_step_stands_out_from_steps_without_duration(tmp_path: Path) -> None:
    spans = [event("user_annotation", f"ProfilerStep#{one}", 100 * one, 50 * (one == 1)) for one in range(6)]
    ops = [event("cpu_op", "aten::mm", 100 * one, 0) for one in range(6)]
    summary = summarize_trace(write(tmp_path / "t", spans + ops))
    assert (summary.steps.count, summary.steps.outliers) == (5, [])  # the last one is the stub
