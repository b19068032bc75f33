"""GPU time by operator and inputs, kernel, category, module and stack, against a slow count of the same file."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traces import MATMUL, TUTORIAL, event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.work_structs import NO_OPERATOR

Events = list[dict[str, Any]]
SHAPES = ([[16, 64], [64, 64]], [[8, 64], [64, 64]])


def op(name: str, ts: float, dur: float, shape: int = 0, tid: int = 412) -> dict[str, Any]:
    types = ["c10::BFloat16", "float"]
    return event("cpu_op", name, ts, dur, args={"Input Dims": SHAPES[shape], "Input type": types}) | {"tid": tid}


QUICK = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)


@st.composite
def programs(draw: st.DrawFn) -> Events:
    """Return nested operators and module calls of two threads; each may launch kernels while it is innermost."""
    events: Events = []

    def call(tid: int, start: int, end: int, depth: int) -> None:
        at = start
        while at + 4 < end:
            size = draw(st.integers(2, max(2, min(60, end - at - 2))))
            what = draw(st.sampled_from(["gap", "launch", "op", "op", "module"]))
            if what == "launch":
                number = len(events) + 1
                events.append(launch(at, 1, number) | {"tid": tid})
                if draw(st.integers(0, 4)):
                    name = draw(st.sampled_from(["nvjet_gemm", "triton_poi_fused_add", "ampere_sgemm"]))
                    ts, stream = draw(st.integers(1, 400)), draw(st.integers(7, 8))  # events at 0 are dropped
                    events.append(kernel(ts, draw(st.integers(0, 9)), number, name, stream=stream))
            elif what in ("op", "module") and depth < 4:
                name = draw(st.sampled_from(["aten::mm", "aten::linear", "aten::add"]))
                inner = op(name, at, size, draw(st.integers(0, 1)), tid)
                if what == "module":
                    inner = event(
                        "python_function", draw(st.sampled_from(["nn.Module: A_0", "nn.Module: B_1"])), at, size
                    )
                    inner |= {"tid": tid}
                events.append(inner)
                call(tid, at + 1, at + size - 1, depth + 1)
            at += size

    for tid in (412, 500):
        call(tid, 0, draw(st.integers(20, 200)), 0)
    events.append(kernel(500, 3, 9999, "Memset (Device)", cat="gpu_memset"))
    return events


def around(events: Events, tid: int, ts: float, cat: str) -> Events:
    """Return the events of a category that are open at an instant, the outermost first."""
    found = [e for e in events if e["cat"] == cat and e["tid"] == tid and e["ts"] <= ts < e["ts"] + e["dur"]]
    return sorted(found, key=lambda e: (e["ts"], -e["dur"]))


def slow_operators(events: Events) -> dict[tuple[str, str | None], list[float]]:
    """Return (calls, GPU time, self GPU time) by name and shapes, by looking at all operators for each kernel."""
    found: defaultdict[tuple[str, str | None], list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    calls = {e["args"]["correlation"]: e for e in events if e["cat"] == "cuda_runtime"}
    key = lambda e: (e["name"], str(e["args"]["Input Dims"])[1:-1])  # noqa: E731
    for one in events:
        if one["cat"] == "cpu_op":
            found[key(one)][0] += 1
        if one["cat"] not in ("kernel", "gpu_memset"):
            continue
        call = calls.get(one["args"]["correlation"])
        outer = around(events, call["tid"], call["ts"], "cpu_op") if call else []
        for group in {key(e) for e in outer}:
            found[group][1] += one["dur"]
        found[key(outer[-1]) if outer else (NO_OPERATOR, None)][2] += one["dur"]
    return found


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
@given(events=programs())
def test_operators_agree_with_a_slow_count(tmp_path: Path, events: Events) -> None:
    summary = summarize_trace(write(tmp_path / "t.json", events))
    slow = slow_operators(events)
    for row in summary.operators:
        calls, gpu_us, self_us = slow[row.name, row.shapes]
        assert (row.calls, 1000 * row.self_gpu_ms) == (calls, pytest.approx(self_us))
        assert row.name == NO_OPERATOR or 1000 * row.gpu_ms == pytest.approx(gpu_us)
    assert {key for key, (_, gpu, _) in slow.items() if gpu} <= {(row.name, row.shapes) for row in summary.operators}
    check_totals(summary, sum(e["dur"] for e in events if e["cat"] in ("kernel", "gpu_memset")) / 1000)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=60
)
@given(events=programs())
def test_modules_agree_with_a_slow_count(tmp_path: Path, events: Events) -> None:
    calls = {e["args"]["correlation"]: e for e in events if e["cat"] == "cuda_runtime"}
    slow: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for one in events:
        if one["cat"] in ("kernel", "gpu_memset"):
            call = calls.get(one["args"]["correlation"])
            outer = around(events, call["tid"], call["ts"], "python_function") if call else []
            slow[tuple(e["name"].removeprefix("nn.Module: ") for e in outer)] += one["dur"]
    modules = summarize_trace(write(tmp_path / "t.json", events)).modules
    found = {tuple(row.frames): 1000 * row.self_gpu_ms for row in modules if row.self_gpu_ms}
    if modules:
        assert found == pytest.approx({frames: us for frames, us in slow.items() if us})


def check_totals(summary: Summary, gpu_ms: float) -> None:
    """Every table splits the time of all GPU events without remainder."""
    assert sum(row.self_gpu_ms for row in summary.operators) == pytest.approx(gpu_ms)
    assert sum(row.ms for row in summary.kernels) == pytest.approx(gpu_ms)
    assert sum(row.ms for row in summary.categories) == pytest.approx(gpu_ms)
    if summary.modules:
        assert sum(row.self_gpu_ms for row in summary.modules) == pytest.approx(gpu_ms)


@pytest.mark.parametrize("path", [MATMUL, TUTORIAL], ids=["matmul", "tutorial"])
def test_tables_of_recorded_traces_add_up(path: Path) -> None:
    summary = summarize_trace(path)
    check_totals(summary, sum(op.self_ms for op in summary.top_ops if op.device == "gpu"))


def test_shapes_of_one_operator_are_told_apart(tmp_path: Path) -> None:
    events = [op("aten::mm", 0, 10), launch(1, 1, 1), kernel(20, 60, 1, "nvjet"), op("aten::mm", 100, 10, 1)]
    events += [launch(101, 1, 2), kernel(120, 900, 2, "nvjet")]
    rows = summarize_trace(write(tmp_path / "t.json", events)).operators
    assert [(row.shapes, row.dtypes, row.self_gpu_ms) for row in rows] == [
        ("[8, 64], [64, 64]", "bfloat16, float32", 0.9),
        ("[16, 64], [64, 64]", "bfloat16, float32", 0.06),
    ]
    assert (rows[0].category, rows[0].tensor_cores, rows[0].kernels[0].name) == ("matmul", True, "nvjet")


def test_host_times_equal_key_averages_of_a_recording(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 8))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        for size in (4, 4, 16):
            model(torch.randn(size, 64)).sum().backward()
    path = tmp_path / "t.json"
    profiler.export_chrome_trace(str(path))
    names = {e["name"] for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") == "cpu_op"}
    names -= {"aten::sum"}  # calls itself once, which key_averages counts as one call
    slow: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    by_shape: list[tuple[str, int]] = []
    for row in profiler.key_averages(group_by_input_shape=True):
        if row.key in names:
            slow[row.key][0] += row.count
            slow[row.key][1] += row.self_cpu_time_total
            by_shape.append((row.key, row.count))
    found: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    rows = [row for row in summarize_trace(path).operators if row.name in names]
    for one in rows:
        found[one.name][0] += one.calls
        found[one.name][1] += 1000 * one.self_host_ms
    assert {name: values[0] for name, values in found.items()} == {name: values[0] for name, values in slow.items()}
    assert {name: values[1] for name, values in found.items()} == pytest.approx(
        {name: values[1] for name, values in slow.items()}, abs=1.0
    )
    calls: defaultdict[tuple[str, str | None], int] = defaultdict(int)
    for one in rows:
        calls[one.name, one.shapes] += one.calls
    assert sorted((name, count) for (name, _), count in calls.items()) == sorted(by_shape)
    assert [row.shapes for row in rows if row.name == "aten::addmm" and row.calls == 1] != []
