"""Verdicts on damaged recordings, and on traces of other back ends and tools."""

import json
from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch, write
from verdict_traces import STEPS, graphed_steps, rows, summary_of

from roseinfer.trace import summarize_trace


def test_a_file_that_breaks_off_before_its_gpu_events_is_not_judged_as_a_cpu_run(tmp_path: Path) -> None:
    ops = rows(*(("cpu_op", "aten::mm", 10 * one, 9) for one in range(200)))
    path = write(tmp_path / "t.json", ops)
    path.write_bytes(path.read_bytes()[:-5000])
    verdict = summarize_trace(path).verdict
    assert verdict.kind == "incomplete"
    assert verdict.headline.startswith("Incomplete: the file breaks off, and the GPU events of Test GPU are missing")
    assert len(verdict.evidence) >= 1
    assert not any("Speed up aten::mm" in line for line in verdict.advice)


def test_a_broken_off_file_of_a_cpu_run_is_judged_as_a_cpu_run(tmp_path: Path) -> None:
    text = json.dumps({"deviceProperties": [], "traceEvents": rows(*(("cpu_op", "aten::mm", 1, 9),) * 9)})
    (tmp_path / "t.json").write_text(text[:-100])
    assert summarize_trace(tmp_path / "t.json").verdict.headline.startswith("CPU only")


@pytest.mark.parametrize("step", [[], [event("user_annotation", "ProfilerStep#5", 0, 45)]])
def test_a_recording_of_nothing_is_empty_whatever_its_metadata(tmp_path: Path, step: list[dict[str, Any]]) -> None:
    """export_chrome_trace writes such a file after the last cycle, outside on_trace_ready."""
    marks = [
        {"ph": "M", "name": "process_name", "ts": 1, "pid": 1, "tid": 0, "args": {"name": "python"}},
        event("Trace", "PyTorch Profiler (0)", 0, 230),
        {"ph": "i", "s": "g", "name": "Record Window End", "pid": "", "tid": "", "ts": 5},
    ]
    verdict = summary_of(tmp_path, marks + step).verdict
    assert verdict.kind == "empty"
    assert any("on_trace_ready" in line for line in verdict.advice)


def test_traces_of_other_tools_are_called_unknown(tmp_path: Path) -> None:
    begin_end = [
        {"ph": phase, "cat": "cpu_op", "name": "f", "pid": 1, "tid": 1, "ts": at} for at, phase in enumerate("BEBE")
    ]
    converted = [event("nvtx", "forward", 0, 10), event("cuda", "gemm", 3, 4)]
    for events in (begin_end, converted):
        summary = summary_of(tmp_path, events)
        assert summary.verdict.kind == "empty"
        assert "2 events of kinds that torch.profiler does not write" in summary.verdict.evidence[0]
        assert any(note.level == "warning" and "2 events of kinds unknown" in note.message for note in summary.trust)


def test_rocm_gemms_are_not_advised_to_be_batched(tmp_path: Path) -> None:
    step = [event("user_annotation", "ProfilerStep#1", 0, 3000)]
    work = [
        one
        for index in range(60)
        for one in (
            launch(40 * index, 5, index + 1, "hipModuleLaunchKernel"),
            kernel(40 * index + 8, 3, index + 1, "Cijk_Alik_Bljk_BBS_BH_MT64x64x32"),
        )
    ]
    summary = summary_of(tmp_path, step + work)
    assert [row.remedy for row in summary.repetition] == ["graph"]
    assert not any("Batch" in line for line in summary.verdict.advice)


def as_strings(one: dict[str, Any]) -> dict[str, Any]:
    """Return the event with every id as a string."""
    args = {key: str(value) for key, value in one.get("args", {}).items() if key != "grid"}
    return {**one, "pid": str(one["pid"]), "tid": str(one["tid"]), "args": args}


def test_ids_as_strings_change_nothing(tmp_path: Path) -> None:
    expected = summary_of(tmp_path, graphed_steps(eager=3))
    found = summary_of(tmp_path, [as_strings(one) for one in graphed_steps(eager=3)])
    assert (found.gpu, found.spans, found.verdict) == (expected.gpu, expected.spans, expected.verdict)


@pytest.mark.parametrize(
    ("runtime", "call"),
    [
        ("cuda_runtime", "hipLaunchKernel"),
        ("hip_runtime", "hipExtModuleLaunchKernel"),
        ("xpu_runtime", "urEnqueueKernelLaunch"),
    ],
)
def test_launches_of_other_back_ends_are_linked(tmp_path: Path, runtime: str, call: str) -> None:
    events = graphed_steps(replays=0, eager=80)
    events = [{**one, "cat": runtime, "name": call} if one["cat"] == "cuda_runtime" else one for one in events]
    summary = summary_of(tmp_path, events)
    assert summary.gpu is not None
    assert (summary.gpu.linked_percent, summary.gpu.launches) == (100, 80 * STEPS)
    assert summary.verdict.kind == "host_bound"
    assert any("80 GPU events one by one" in line for line in summary.verdict.advice)
    assert not any("not recorded" in note.message for note in summary.trust)


def test_events_with_negative_durations_are_left_out_with_a_warning(tmp_path: Path) -> None:
    events = [*graphed_steps(), {**kernel(50, 1, 99), "dur": -5}]
    summary = summary_of(tmp_path, events)
    assert summary.gpu == summary_of(tmp_path, graphed_steps()).gpu
    assert any(note.level == "warning" and "1 event with an impossible time" in note.message for note in summary.trust)


def test_kernels_without_a_duration_are_missing_but_launches_are_not(tmp_path: Path) -> None:
    events = [
        one
        for index in range(50)
        for one in (launch(100 * index, 5, index + 1), kernel(100 * index + 9, 90, index + 1))
    ]
    for one in events:
        if one["cat"] == "kernel" and one["args"]["correlation"] % 4 == 0:
            del one["dur"]
    verdict = summary_of(tmp_path, events).verdict
    assert verdict.kind == "incomplete"
    assert "the GPU events of 12 of 50 launches" in verdict.headline
    whole = [{key: value for key, value in one.items() if key != "dur" or one["cat"] == "kernel"} for one in events]
    assert "the GPU events of 12 of 50 launches" in summary_of(tmp_path, whole).verdict.headline


@pytest.mark.parametrize("call", ["cudaLaunchKernel", "hipModuleLaunchKernel", "urEnqueueKernelLaunch"])
def test_launches_without_any_gpu_event_are_a_failed_recording(tmp_path: Path, call: str) -> None:
    summary = summary_of(tmp_path, [event("cpu_op", "aten::mm", 0, 9), launch(2, 3, 1, call)])
    assert any(note.level == "warning" and "GPU side was not recorded" in note.message for note in summary.trust)
