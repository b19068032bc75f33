"""Comparing two traces, several ranks and cycles as one, and the command around it all."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from traces import MATMUL, ORIGIN, event, kernel, launch, write

from roseinfer.cli import console
from roseinfer.cli.app import run
from roseinfer.errors import TraceError
from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.comparison import normalized


def steps(
    durations: list[float], *, phase: str = "decode", kernel_us: float = 10.0, rank: int = 0, events: int = 2
) -> list[dict[str, Any]]:
    """Steps one after another, each with an inner span and some kernels."""
    made: list[dict[str, Any]] = []
    at, correlation = 0.0, 1
    for duration in durations:
        made.append(event("user_annotation", f"roseinfer.step[{phase} bs=4 tokens=4]", at, duration))
        made.append(event("user_annotation", "roseinfer.model.forward", at + 1, duration - 2))
        for index in range(events):
            made.append(launch(at + 2 + 3 * index, 2, correlation))
            made.append(kernel(at + 20 + 2 * kernel_us * index, kernel_us, correlation, "gemm", device=rank))
            correlation += 1
        at += duration + 5
    return made


def summary_of(tmp_path: Path, name: str, *args: Any, **kwargs: Any) -> Summary:
    return summarize_trace(write(tmp_path / name, steps(*args, **kwargs)))


def test_a_trace_compared_with_itself_did_not_change() -> None:
    origin = summarize_trace(ORIGIN)
    found = compare(origin, origin, 0.0).comparison
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


def test_a_change_within_the_noise_is_none(tmp_path: Path) -> None:
    old = summary_of(tmp_path, "old", [100, 150, 60, 130])
    new = summary_of(tmp_path, "new", [110, 160, 65, 140])
    found = compare(new, old, 5.0).comparison
    assert found is not None
    assert found.phases[0].verdict == "no clear change"
    assert not found.failed


def test_kernels_compare_by_normalized_name() -> None:
    assert normalized("triton_poi_fused_add_12") == normalized("triton_poi_fused_add_34")
    assert normalized("k<{lambda()#1}>") == normalized("k<{lambda()#2}>")
    assert normalized("gemm_64x64") != normalized("gemm_128x64")


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
    assert summary.steps.count == 6


def test_cycles_of_one_rank_merge_without_the_time_between_them(tmp_path: Path) -> None:
    alone = summarize_trace(ORIGIN)
    for cycle in range(2):
        (tmp_path / f"rank0-cycle{cycle}.pt.trace.json.gz").write_bytes(ORIGIN.read_bytes())
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


def test_a_broken_manifest_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", steps([100, 100, 100]))
    expected = summarize_trace(path)
    for text in ("{", "[]", '{"steps": 3, "graphs": [{"events": 1}], "ceilings": "x"}'):
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


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Runs `roseinfer summarize ...` here: (exit code, stdout, stderr)."""
    monkeypatch.setattr("sys.argv", ["roseinfer", "summarize", *map(str, args)])
    monkeypatch.setattr(console, "stdout", console.Console(width=100))
    code = run()
    out, err = capfd.readouterr()
    return code, out, err


def test_the_command_prints_one_json_document(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = command(monkeypatch, capfd, ORIGIN, "--json")
    assert code == 0
    assert msgspec.json.decode(out, type=Summary) == summarize_trace(ORIGIN)


def test_the_command_prints_a_report(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(monkeypatch, capfd, MATMUL, "--top", 3)
    assert code == 0
    assert out.startswith("Healthy")
    code, out, _ = command(monkeypatch, capfd, MATMUL, "--markdown")
    assert out.startswith("### Healthy")


def test_fail_above_exits_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    old = write(tmp_path / "old.json", steps([100, 101, 99, 100]))
    new = write(tmp_path / "new.json", steps([120, 121, 119, 120]))
    assert command(monkeypatch, capfd, new, "--baseline", old, "--fail-above", "5%")[0] == 3
    assert command(monkeypatch, capfd, new, "--baseline", old, "--fail-above", "30")[0] == 0
    assert command(monkeypatch, capfd, new, "--baseline", old)[0] == 0


def test_the_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert command(monkeypatch, capfd, ORIGIN, "--html", page)[0] == 0
    assert "build_batched_past" in page.read_text()
    code, _, err = command(monkeypatch, capfd, ORIGIN, "--html", tmp_path / "no" / "page.html")
    assert code == 1
    assert "cannot write" in err


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["missing.json"], 1),
        ([ORIGIN, "--fail-above", "5%"], 2),
        ([ORIGIN, "--baseline", ORIGIN, "--fail-above", "much"], 2),
        ([ORIGIN, "--json", "--markdown"], 2),
        ([ORIGIN, "--top", "0"], 2),
        ([ORIGIN, "--sort-by", "name"], 2),
    ],
)
def test_wrong_calls_are_one_line(
    args: list[object], code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found, out, err = command(monkeypatch, capfd, *args)
    assert found == code
    assert out == ""
    assert len(err.strip().splitlines()) == 1


def test_a_truncated_file_says_so_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "half.json"
    data = gzip.decompress(ORIGIN.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    code, out, _ = command(monkeypatch, capfd, path)
    assert code == 0
    assert "The file is incomplete" in out
