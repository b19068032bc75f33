"""Kernels of graph replays get the operators of an eager run of the same code, in the same file or beside it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from traces import event, kernel, launch, write

from roseinfer.cli import console
from roseinfer.cli.app import run
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.work_structs import NO_OPERATOR

Events = list[dict[str, Any]]
KERNELS = ["nvjet_gemm", "layer_norm_kernel", "nvjet_gemm", "act_and_mul_kernel"]


def eager(kernels: list[str], at: float = 0.0, first: int = 1, us: float = 10.0) -> Events:
    """Return a module operator whose inner operators launch the kernels one by one."""
    events = [event("cpu_op", "model::block", at, 40.0 * len(kernels))]
    for index, name in enumerate(kernels):
        begin, inputs = at + 1 + 30 * index, {"Input Dims": [[index + 1, 8]], "Input type": ["c10::Half"]}
        events.append(event("cpu_op", f"aten::op_{name}", begin, 20, args=inputs))
        events.append(launch(begin + 2, 2, first + index))
        events.append(kernel(begin + 10, us, first + index, name))
    return events


def replay(kernels: list[str], at: float, correlation: int, us: float = 5.0) -> Events:
    events = [launch(at, 3, correlation, "cudaGraphLaunch")]
    return events + [kernel(at + 10 + 20 * index, us, correlation, name) for index, name in enumerate(kernels)]


def self_gpu(summary: Summary) -> dict[tuple[str, str | None], float]:
    return {(row.name, row.shapes): row.self_gpu_ms for row in summary.operators if row.self_gpu_ms}


def total(summary: Summary) -> float:
    return sum(op.self_ms for op in summary.top_ops if op.device == "gpu")


def test_replays_get_the_operators_of_a_warm_up_in_the_same_file(tmp_path: Path) -> None:
    events = [*eager(KERNELS), *replay(KERNELS, 1000, 90), *replay(KERNELS, 2000, 91)]
    summary = summarize_trace(write(tmp_path / "t.json", events))
    assert self_gpu(summary) == {
        (f"aten::op_{name}", f"[{index + 1}, 8]"): pytest.approx(0.02) for index, name in enumerate(KERNELS)
    }
    block = next(row for row in summary.operators if row.name == "model::block")
    assert (block.gpu_ms, block.self_gpu_ms) == (pytest.approx(0.08), 0.0)
    assert sum(row.self_gpu_ms for row in summary.operators) == pytest.approx(total(summary))


def test_replays_get_the_operators_of_a_capture_trace(tmp_path: Path) -> None:
    replayed = write(tmp_path / "t.json", replay(KERNELS, 1000, 90))
    capture = write(tmp_path / "capture.json", eager(KERNELS))
    assert self_gpu(summarize_trace(replayed)) == {(NO_OPERATOR, None): 0.02}
    summary = summarize_trace(replayed, capture=capture)
    assert self_gpu(summary) == {(f"aten::op_{name}", f"[{index + 1}, 8]"): 0.005 for index, name in enumerate(KERNELS)}
    row = next(row for row in summary.operators if row.name == "aten::op_act_and_mul_kernel")
    assert (row.calls, row.category, row.kernels[0].name) == (0, "elementwise", "act_and_mul_kernel")
    assert {op.name: op.calls for op in summary.top_ops if op.device == "cpu"} == {}
    assert not any("match no launches" in note.message for note in summary.trust)


@pytest.mark.parametrize("kernels", [KERNELS[::-1], KERNELS[:-1] + ["other"], [*KERNELS, "nvjet_gemm"]])
def test_replays_of_other_kernels_match_nothing_and_it_is_said(tmp_path: Path, kernels: list[str]) -> None:
    replayed = write(tmp_path / "t.json", [*replay(kernels, 1000, 90), *replay(KERNELS, 2000, 91)])
    summary = summarize_trace(replayed, capture=write(tmp_path / "capture.json", eager(KERNELS)))
    assert self_gpu(summary)[NO_OPERATOR, None] == pytest.approx(0.005 * len(kernels))
    assert any("1 of 2 graph replays match no launches in" in note.message for note in summary.trust)


def test_a_capture_trace_without_use_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "t.json", eager(KERNELS))
    monkeypatch.setattr("sys.argv", ["roseinfer", "summarize", str(path), "--capture", str(path)])
    monkeypatch.setattr(console, "stdout", Console(width=100))
    assert run() == 0
    assert "the trace has no graph replays" in " ".join(capfd.readouterr().out.split())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    names=st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=12),
    cuts=st.lists(st.tuples(st.integers(0, 11), st.integers(2, 6)), min_size=1, max_size=4),
)
def test_any_part_of_an_eager_run_is_found(tmp_path: Path, names: list[str], cuts: list[tuple[int, int]]) -> None:
    """Each operator launches one kernel, so that a replay's time goes to operators named after its kernels."""
    parts = [part for start, size in cuts if len(part := names[start : start + size]) >= 2]
    events = eager(names)
    for index, part in enumerate(parts):
        events += replay(part, 5000.0 + 1000 * index, 1000 + index)
    summary = summarize_trace(write(tmp_path / "t.json", events))
    found: dict[str, float] = {}
    for row in summary.operators:
        found[row.name] = found.get(row.name, 0.0) + row.self_gpu_ms
    for name in set(names):
        us = 10 * names.count(name) + 5 * sum(part.count(name) for part in parts)
        assert 1000 * found[f"aten::op_{name}"] == pytest.approx(us)
    assert NO_OPERATOR not in found
