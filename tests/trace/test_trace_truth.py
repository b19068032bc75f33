"""Known figures of the recorded traces, and sums that hold for any trace."""

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sums import check_sums
from traces import MATMUL, TUTORIAL, event, kernel, launch, write

from roseinfer.errors import TraceError
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.finding_structs import NO_SPAN, SpanSummary

US = 1e-3  # one microsecond, in ms


def span_of(summary: Summary, name: str) -> SpanSummary:
    return next(span for span in summary.spans if span.name == name)


@pytest.fixture(scope="module")
def tutorial() -> Summary:
    return summarize_trace(TUTORIAL)


@pytest.fixture(scope="module")
def matmul() -> Summary:
    return summarize_trace(MATMUL)


def near(value: float) -> object:
    return pytest.approx(value, rel=0.01)


def test_the_tutorial_traces_gpu(tutorial: Summary) -> None:
    gpu = tutorial.gpu
    assert gpu is not None
    assert (gpu.gpu_events, gpu.kernels, gpu.linked_percent) == (4953, 4371, 100.0)
    assert (gpu.busy_percent, gpu.window_ms, gpu.idle_ms) == (near(9.3), near(133.6), near(121.1))
    cause = gpu.idle_by_cause
    assert (cause.host_late_ms, cause.launch_call_ms, cause.device_queue_ms) == (near(83.2), near(28.2), near(9.7))
    assert cause.unlinked_ms == 0
    assert (gpu.small_percent, gpu.small_kernels_percent) == (near(92.5), near(91.5))
    assert (gpu.launches, gpu.replayed_percent) == (4953, 0.0)


def test_the_tutorial_traces_spans(tutorial: Summary) -> None:
    past = span_of(tutorial, "roseinfer.decode_step_sessions.build_batched_past")
    assert (past.calls, past.gpu_events, past.gpu_events_per_call) == (3, 3 * 408, 408)
    assert (past.wall_ms, past.gpu_ms) == (near(32.2), near(2.01))
    forward = span_of(tutorial, "roseinfer.model.forward")
    assert (forward.calls, forward.gpu_events, forward.kernels) == (3, 1284, 1212)
    assert (forward.wall_ms, forward.gpu_ms) == (near(45.4), near(3.29))
    append = span_of(tutorial, "roseinfer.kv.append_token")
    assert (append.gpu_events, append.gpu_ms) == (576, near(1.40))
    unannotated = span_of(tutorial, "ProfilerStep")
    assert (unannotated.self_gpu_events, unannotated.self_gpu_events_per_call) == (616 * 3, 616)
    assert span_of(tutorial, NO_SPAN).gpu_events == 0


def test_the_tutorial_traces_verdict(tutorial: Summary) -> None:
    assert tutorial.verdict.kind == "host_bound"
    assert "build_batched_past" in tutorial.verdict.headline
    assert "408 GPU events per step" in tutorial.verdict.headline
    assert 2 <= len(tutorial.verdict.evidence) <= 5
    assert any("Capture the decode step in a CUDA graph" in line for line in tutorial.verdict.advice)
    repeated = next(row for row in tutorial.repetition if row.span.endswith("build_batched_past"))
    assert (repeated.pattern_launches, repeated.repeats, repeated.removable_per_step) == (34, 12, 374)
    assert next(sync for sync in tutorial.syncs if "_local_scalar_dense" in sync.op).per_step == 8
    assert not any("cudaDeviceSynchronize" in sync.call for sync in tutorial.syncs)  # the profiler's own


def test_the_matmul_traces_verdict(matmul: Summary) -> None:
    assert matmul.gpu is not None
    assert matmul.gpu.busy_percent == near(99.8)
    assert matmul.gpu.linked_percent == 75.0
    assert (matmul.gpu.small_percent, matmul.gpu.small_kernels_percent) == (50.0, 0.0)
    assert matmul.gpu.median_launch_to_start_us == near(99_000)
    assert matmul.steps.count == 3
    assert matmul.verdict.kind == "gpu_bound"
    assert matmul.verdict.headline.startswith("Healthy")
    assert any("warm-up leaked" in doubt.message for doubt in matmul.trust)
    assert matmul.what_if == []


def test_spans_shorter_than_their_gpu_work_are_noted_as_no_step_times(tutorial: Summary, matmul: Summary) -> None:
    assert any("Spans of steps end before the GPU has done their work" in doubt.message for doubt in matmul.trust)
    assert not any("Spans of steps end before" in doubt.message for doubt in tutorial.trust)
    assert (matmul.steps.phases["step"].timed_by, tutorial.steps.phases["decode"].timed_by) == ("wall", "span")
    assert matmul.steps.phases["step"].median_ms == pytest.approx(32.7, abs=0.1)


@pytest.mark.parametrize("path", [TUTORIAL, MATMUL])
def test_sums_of_the_recorded_traces(path: Path) -> None:
    check_sums(summarize_trace(path))


@st.composite
def made_up(draw: st.DrawFn) -> list[dict[str, object]]:
    """Draw launches, GPU events on several streams and devices, spans that may overlap, and operators."""
    made: list[dict[str, object]] = []
    times = st.integers(0, 400)
    lengths = st.integers(0, 60)
    for index in range(draw(st.integers(0, 12))):
        thread = {"tid": draw(st.integers(1, 2))}
        made.append(launch(draw(times), draw(lengths), index + 1) | thread)
    for _ in range(draw(st.integers(0, 14))):
        where = {"stream": draw(st.integers(1, 2)), "device": draw(st.integers(0, 1))}
        cat = draw(st.sampled_from(["kernel", "gpu_memcpy", "gpu_memset"]))
        name = draw(st.sampled_from(["k", "Memcpy HtoD (Pageable -> Device)", "nccl_all"]))
        made.append(kernel(draw(times), draw(lengths), draw(st.integers(1, 14)), name, cat=cat, **where))
    names = ["a", "b[x=1]", "roseinfer.step[decode bs=1 tokens=1]", "ProfilerStep#1", "ProfilerStep#2"]
    for cat, choice in (("user_annotation", names), ("cpu_op", ["aten::mm", "aten::item"])):
        for _ in range(draw(st.integers(0, 8))):
            thread = {"tid": draw(st.integers(1, 2))}
            made.append(event(cat, draw(st.sampled_from(choice)), draw(times), draw(lengths)) | thread)
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(events=made_up())
def test_sums_of_any_trace(tmp_path: Path, events: list[dict[str, object]]) -> None:
    check_sums(summarize_trace(write(tmp_path / "t.json", events, "dense")))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None, max_examples=40
)
@given(events=made_up())
def test_gaps_agree_with_a_slow_reference(tmp_path: Path, events: list[dict[str, object]]) -> None:
    """Classify each microsecond: idle if nothing runs, with the cause given by the launch of the next event."""
    if any(e["ts"] == 0 for e in events if e["cat"] in ("kernel", "gpu_memcpy", "gpu_memset")):
        return  # the clock of such an event may have failed: it is dropped
    summary = summarize_trace(write(tmp_path / "t.json", events, "dense"))
    launches: dict[object, tuple[int, int]] = {}
    calls = [e for e in events if e["cat"] == "cuda_runtime"]
    for one in sorted(calls, key=lambda e: (e["tid"], e["ts"])):
        launches.setdefault(one["args"]["correlation"], (one["ts"], one["ts"] + one["dur"]))
    for device in summary.devices:
        mine = [e for e in events if e.get("args", {}).get("device") == device.id]
        first, last = min(e["ts"] for e in mine), max(e["ts"] + e["dur"] for e in mine)
        cause = dict.fromkeys(("busy", "late", "call", "queue", "unlinked"), 0)
        for tick in range(first, last):
            if any(e["ts"] <= tick < e["ts"] + e["dur"] for e in mine):
                cause["busy"] += 1
                continue
            following = [e for e in mine if e["ts"] > tick]
            key = lambda e: (e["ts"], e["ts"] + e["dur"])  # noqa: E731
            ending = min(following, key=key)
            if sum(key(e) == key(ending) for e in following) > 1:
                return  # two events end the gap at the same time: the choice between them is arbitrary
            start, end = launches.get(ending["args"]["correlation"], (None, None))
            cause["unlinked" if start is None else "late" if tick < start else "call" if tick < end else "queue"] += 1
        by = device.idle_by_cause
        found = (device.busy_ms, by.host_late_ms, by.launch_call_ms, by.device_queue_ms, by.unlinked_ms)
        assert found == pytest.approx([value * US for value in cause.values()], abs=1e-6)


def test_gpu_events_belong_to_the_spans_around_their_launch(tmp_path: Path) -> None:
    other = {"tid": 9}
    events = [
        event("user_annotation", "outer", 0, 100),
        event("user_annotation", "inner", 10, 20),
        event("user_annotation", "elsewhere", 0, 100) | other,
        launch(15, 2, 1),
        launch(40, 2, 2),
        launch(50, 2, 3) | other,
        launch(200, 2, 4),
        kernel(500, 10, 1),
        kernel(520, 20, 2),
        kernel(550, 40, 3),
        kernel(600, 80, 4),
        kernel(700, 160, 99),
        {**event("gpu_user_annotation", "elsewhere", 0, 9999), "pid": 0, "tid": 7},
    ]
    summary = summarize_trace(write(tmp_path / "t.json", events))
    found = {span.name: (span.gpu_ms, span.self_gpu_ms) for span in summary.spans}
    assert found == {
        "outer": (0.03, 0.02),
        "inner": (0.01, 0.01),
        "elsewhere": (0.04, 0.04),
        NO_SPAN: (0.24, 0.24),
    }


def test_one_graph_launch_counts_for_all_its_kernels(tmp_path: Path) -> None:
    replay = [kernel(100 + 2 * index, 1.6, 1, f"k{index}") for index in range(50)]
    spans = [event("user_annotation", "roseinfer.model.forward", 0, 60), launch(10, 5, 1, "cudaGraphLaunch")]
    summary = summarize_trace(write(tmp_path / "t.json", spans + replay))
    assert summary.gpu is not None
    assert summary.gpu.linked_percent == 100
    assert summary.gpu.busy_percent == pytest.approx(80, abs=1)
    assert summary.gpu.idle_by_cause.device_queue_ms == pytest.approx(summary.gpu.idle_ms)
    assert span_of(summary, "roseinfer.model.forward").gpu_events == 50
    assert summary.repetition == []


def test_replays_map_to_the_spans_of_the_manifest(tmp_path: Path) -> None:
    names = ["norm", "attention_kernel", "attention_kernel", "mlp"]
    spans = ["roseinfer.model.forward", "roseinfer.attention", "roseinfer.attention", "roseinfer.model.forward"]
    events = []
    for step in range(2):
        at = 1000 * step
        events += [
            event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", at, 900),
            event("user_annotation", "roseinfer.model.forward", at + 10, 50),
            launch(at + 20, 5, step + 1, "cudaGraphLaunch"),
            *(kernel(at + 100 + 10 * index, 4, step + 1, name) for index, name in enumerate(names)),
        ]
    import json

    graph = {"key": "decode-1", "events": [{"name": n, "span": s} for n, s in zip(names, spans, strict=True)]}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 1, "graphs": [graph]}))
    summary = summarize_trace(write(tmp_path / "rank0-cycle0.pt.trace.json", events))
    attention = span_of(summary, "roseinfer.attention")
    assert (attention.calls, attention.gpu_events, attention.gpu_events_per_call) == (2, 4, 2)
    forward = span_of(summary, "roseinfer.model.forward")
    assert (forward.gpu_events, forward.self_gpu_events) == (8, 4)
    check_sums(summary)


def try_to_summarize(path: Path) -> None:
    try:
        check_sums(summarize_trace(path))
    except TraceError as refused:
        assert "\n" not in str(refused)  # noqa: PT017


@pytest.mark.parametrize("percent", range(1, 100))
def test_truncation_at_every_percent(tmp_path: Path, percent: int) -> None:
    for index, data in enumerate((gzip.decompress(MATMUL.read_bytes()), MATMUL.read_bytes(), TUTORIAL.read_bytes())):
        if index == 2 and percent % 10:
            continue
        path = tmp_path / f"{index}.json"
        path.write_bytes(data[: len(data) * percent // 100])
        try_to_summarize(path)


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    data = bytearray(gzip.decompress(MATMUL.read_bytes()))
    for _ in range(draw.choice((1, 3, 30, 300))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path = tmp_path / "t.json"
    path.write_bytes(data)
    try_to_summarize(path)


def test_flipped_bytes_in_gzip(tmp_path: Path) -> None:
    draw = random.Random(1)
    for _ in range(40):
        data = bytearray(MATMUL.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path = tmp_path / "t.json.gz"
        path.write_bytes(data)
        try_to_summarize(path)


def test_shuffled_lines_give_no_wrong_sum(tmp_path: Path) -> None:
    lines = gzip.decompress(MATMUL.read_bytes()).split(b"\n")
    for seed in range(10):
        draw = random.Random(seed)
        start = draw.randrange(len(lines) - 400)
        part = lines[start : start + 300]
        draw.shuffle(part)
        path = tmp_path / "t.json"
        path.write_bytes(b"\n".join([*lines[:start], *part, *lines[start + 300 :]]))
        try_to_summarize(path)


def test_every_gap_sum_is_exact_in_nanoseconds(tutorial: Summary) -> None:
    assert tutorial.gpu is not None
    parts = tutorial.gpu.idle_by_cause
    total = np.array([parts.host_late_ms, parts.launch_call_ms, parts.device_queue_ms, parts.unlinked_ms]) * 1e6
    assert int(np.rint(total).sum()) == round(tutorial.gpu.idle_ms * 1e6)
