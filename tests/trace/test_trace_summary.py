"""Summaries of the recorded traces hold known figures, and steps are found whichever engine labelled them."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from traces import MATMUL, TUTORIAL, event, kernel, write

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.facts.span_table import group_name
from roseinfer.trace.summary.finding_structs import SpanSummary
from roseinfer.trace.summary.step_structs import PhaseSummary


def span_of(summary: Summary, name: str) -> SpanSummary:
    return next(span for span in summary.spans if span.name == name)


@pytest.fixture(scope="module")
def tutorial() -> Summary:
    return summarize_trace(TUTORIAL)


@pytest.fixture(scope="module")
def matmul() -> Summary:
    return summarize_trace(MATMUL)


def test_spans_of_the_tutorial_trace(tutorial: Summary) -> None:
    past = span_of(tutorial, "roseinfer.decode_step_sessions.build_batched_past")
    assert (past.calls, past.wall_ms) == (3, pytest.approx(32.2, rel=0.01))
    forward = span_of(tutorial, "roseinfer.model.forward")
    assert (forward.calls, forward.wall_ms) == (3, pytest.approx(45.4, rel=0.01))
    total = span_of(tutorial, "roseinfer.decode_step_sessions.total")
    inner = sum(span.wall_ms for span in tutorial.spans if span.self_wall_ms == span.wall_ms)
    assert total.self_wall_ms == pytest.approx(total.wall_ms - inner, abs=1e-5)


def test_steps_of_the_recorded_traces(tutorial: Summary, matmul: Summary) -> None:
    assert tutorial.steps.source == "roseinfer.decode_step_sessions.total"
    assert tutorial.steps.count == tutorial.steps.phases["decode"].count == 3
    assert matmul.steps.source == "ProfilerStep"
    assert matmul.steps.phases["step"].count == 3


def test_top_ops_of_the_recorded_traces(tutorial: Summary, matmul: Summary) -> None:
    gpu = [op for op in tutorial.top_ops if op.device == "gpu"]
    assert sum(op.calls for op in gpu) == 4953
    assert sum(op.percent for op in gpu) == pytest.approx(100, abs=0.5)
    top = next(op for op in matmul.top_ops if op.device == "gpu")
    assert (top.name, top.calls) == ("nvjet_sm90_tst_320x128_64x3_1x2_h_bz_coopB_NNT", 80)


def test_operators_agree_with_a_slow_reference(tutorial: Summary) -> None:
    import gzip

    ops = [e for e in json.loads(gzip.decompress(TUTORIAL.read_bytes()))["traceEvents"] if e.get("cat") == "cpu_op"]
    ops.sort(key=lambda op: (op["ts"], -op["dur"]))
    self_us: dict[str, float] = {}
    stack: list[tuple[float, str]] = []
    for op in ops:
        while stack and stack[-1][0] <= op["ts"]:
            stack.pop()
        self_us[op["name"]] = self_us.get(op["name"], 0.0) + op["dur"]
        if stack:
            self_us[stack[-1][1]] -= op["dur"]
        stack.append((op["ts"] + op["dur"], op["name"]))
    found = {op.name: op.self_ms * 1000 for op in tutorial.top_ops if op.device == "cpu"}
    assert found.keys() == self_us.keys()
    for name, value in self_us.items():
        assert found[name] == pytest.approx(value, abs=0.01 * len(ops) / 1000 + 0.05), name


def steps_from(tmp_path: Path, *names: str) -> tuple[str | None, dict[str, PhaseSummary]]:
    spans = [event("user_annotation", name, 100 * index, 90) for index, name in enumerate(names)]
    ops = [event("cpu_op", "aten::mm", 100 * index + 1, 5) for index in range(len(names))]
    steps = summarize_trace(write(tmp_path / "t.json", spans + ops)).steps
    return steps.source, steps.phases


def test_step_labels_of_roseinfer_are_read(tmp_path: Path) -> None:
    source, phases = steps_from(
        tmp_path,
        "roseinfer.step[prefill bs=3 tokens=512]",
        "roseinfer.step[decode bs=16 tokens=16]",
        "roseinfer.step[decode bs=16 tokens=64]",
        "ProfilerStep#3",
    )
    assert source == "roseinfer.step"
    assert {phase: row.count for phase, row in phases.items()} == {"decode": 2, "prefill": 1}
    assert phases["decode"].tokens_per_step == 40
    assert phases["decode"].median_ms == pytest.approx(0.09)


def test_step_labels_of_vllm_are_read(tmp_path: Path) -> None:
    source, phases = steps_from(
        tmp_path,
        "execute_context_1(17)_generation_0(0)",
        "execute_context_0(0)_generation_8(8)",
        "execute_new_1_cached_2",
    )
    assert source == "vLLM"
    assert {phase: row.tokens_per_step for phase, row in phases.items()} == {"prefill": 17, "decode": 8, "mixed": None}


def test_step_labels_of_sglang_are_read(tmp_path: Path) -> None:
    source, phases = steps_from(
        tmp_path, "step[DECODE bs=4]", "step[EXTEND bs=2 toks=107]", "step[mixed bs=3 ext=9 dec=2]"
    )
    assert source == "SGLang"
    assert {phase: row.tokens_per_step for phase, row in phases.items()} == {"decode": 4, "prefill": 107, "mixed": 11}


def test_the_stub_at_the_end_of_a_recording_is_not_a_step(tmp_path: Path) -> None:
    spans = [event("user_annotation", f"ProfilerStep#{index}", 100 * index, 90) for index in range(4)]
    ops = [event("cpu_op", "aten::mm", 100 * index + 1, 5) for index in range(3)]
    summary = summarize_trace(write(tmp_path / "t.json", spans + ops))
    assert summary.steps.count == 3
    assert span_of(summary, "ProfilerStep").calls == 3


def test_a_short_stub_with_work_is_not_a_step(tmp_path: Path) -> None:
    spans = [event("user_annotation", f"ProfilerStep#{index}", 100 * index, 90) for index in range(3)]
    spans.append(event("user_annotation", "ProfilerStep#3", 300, 6))
    ops = [event("cpu_op", "aten::mm", 100 * index + 1, 5) for index in range(4)]
    assert summarize_trace(write(tmp_path / "t.json", spans + ops)).steps.count == 3


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("roseinfer.step[decode bs=16 tokens=16]", "roseinfer.step"),
        ("ProfilerStep#12", "ProfilerStep"),
        ("execute_context_0(0)_generation_8(8)", "execute_context_N(N)_generation_N(N)"),
        ("[label only]", "[label only]"),
        ("layer#3", "layer#3"),
    ],
)
def test_spans_are_grouped_without_labels(name: str, group: str) -> None:
    assert group_name(name) == group


def test_a_trace_without_events_has_a_summary(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"traceEvents": []}')
    summary = summarize_trace(path)
    assert summary.steps.count == 0
    assert summary.steps.source is None
    assert any(note.level == "warning" for note in summary.trust)


def test_a_gpu_only_trace_has_a_summary(tmp_path: Path) -> None:
    summary = summarize_trace(write(tmp_path / "t.json", [kernel(1, 2, 3)]))
    assert summary.cpu.window_ms == 0
    assert [op.name for op in summary.top_ops] == ["k"]


def test_the_json_is_the_struct(tutorial: Summary) -> None:
    assert msgspec.json.decode(msgspec.json.encode(tutorial), type=Summary) == tutorial


def test_the_trace_package_needs_no_torch_and_loads_lazily() -> None:
    code = (
        "import sys, roseinfer.trace; assert 'numpy' not in sys.modules; "
        "roseinfer.trace.summarize_trace; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
