"""The reader reads every layout of a Chrome trace, repairs damaged traces, and refuses files that are no trace."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traces import LAYOUTS, MATMUL, TUTORIAL, as_text, event, kernel, launch, write

from roseinfer.errors import TraceError
from roseinfer.trace.reading.columns import NO_CORRELATION, Trace
from roseinfer.trace.reading.trace_reader import read_trace

nasty = st.text(alphabet=st.sampled_from('},{[]":\\ \nabé'), max_size=12)


def rows(trace: Trace) -> list[tuple[object, ...]]:
    """Return all events in a trace's tables as rows that can be compared."""
    found: list[tuple[object, ...]] = []
    for kind, table in (("op", trace.ops), ("span", trace.spans), ("call", trace.calls)):
        for index in range(len(table)):
            thread = trace.threads[table.thread[index]]
            times = (int(table.start_ns[index]), int(table.end_ns[index]))
            found.append((kind, trace.names[table.name[index]], *map(str, thread), *times))
    gpu = trace.gpu
    for index in range(len(gpu)):
        times = (int(gpu.start_ns[index]), int(gpu.end_ns[index]))
        device = trace.devices[gpu.device[index]].id
        found.append(("gpu", trace.names[gpu.name[index]], device, int(gpu.correlation[index]), *times))
    return sorted(found, key=repr)


@st.composite
def events(draw: st.DrawFn) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for index in range(draw(st.integers(1, 12))):
        # From 1 on: GPU events at the time 0 are those of a failed clock, and are dropped.
        ts, dur = draw(st.integers(1, 10**6)) / 1000, draw(st.integers(0, 10**6)) / 1000
        cat = draw(st.sampled_from(["cpu_op", "user_annotation", "cuda_runtime", "kernel", "ac2g"]))
        name = draw(nasty)
        args = {"correlation": index + 1, "note": draw(nasty), "more": [{"a": draw(nasty)}, {"b": [{}, {}]}]}
        if cat == "kernel":
            made.append({**kernel(ts, dur, index + 1, name), "args": {**args, "device": 0, "stream": 7}})
        else:
            ids = draw(st.sampled_from([{"pid": 1, "tid": 2}, {"pid": "one", "tid": "two"}, {"pid": 1, "tid": "two"}]))
            made.append({"ph": "s" if cat == "ac2g" else "X", "cat": cat, "name": name, **ids, "ts": ts, "dur": dur})
            made[-1]["args"] = args
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=events(), layout=st.sampled_from(LAYOUTS), chunk=st.integers(16, 400))
def test_every_layout_cut_anywhere_reads_the_same(
    tmp_path: Path, events: list[dict[str, object]], layout: str, chunk: int
) -> None:
    trace = read_trace(write(tmp_path / "t.json", events, layout), chunk_bytes=chunk)
    assert trace.truncated is None
    assert trace.counts.damaged == 0
    assert trace.counts.events == len(events)
    kept = [event for event in events if event["cat"] != "ac2g"]
    first = min((event["ts"] for event in kept), default=0)
    kinds = {"cpu_op": "op", "user_annotation": "span", "cuda_runtime": "call"}
    expected = []
    for item in kept:
        start = round(item["ts"] * 1000) - round(first * 1000)
        times = (start, start + round(item["dur"] * 1000))
        if item["cat"] == "kernel":
            expected.append(("gpu", item["name"], 0, item["args"]["correlation"], *times))
        else:
            expected.append((kinds[item["cat"]], item["name"], str(item["pid"]), str(item["tid"]), *times))
    assert rows(trace) == sorted(expected, key=repr)


@pytest.mark.parametrize("path", [TUTORIAL, MATMUL])
def test_recorded_traces_read_the_same_from_every_layout(tmp_path: Path, path: Path) -> None:
    plain = gzip.decompress(path.read_bytes())
    everything = json.loads(plain)["traceEvents"]
    expected = rows(read_trace(path))
    for layout in ("dense", "bare", "lines"):
        again = read_trace(write(tmp_path / layout, everything, layout), chunk_bytes=1 << 16)
        assert again.counts.events == len(everything)
        assert rows(again) == expected


def test_metadata_is_read_before_and_behind_the_events(tmp_path: Path) -> None:
    for layout in ("kineto", "dense", "indented"):
        trace = read_trace(write(tmp_path / layout, [event("cpu_op", "a", 1, 2)], layout))
        assert [device.name for device in trace.metadata.deviceProperties] == ["Test GPU", "Test GPU"]


@pytest.mark.parametrize("percent", range(1, 100, 7))
def test_a_truncated_file_gives_what_it_holds_and_says_so(tmp_path: Path, percent: int) -> None:
    for path, whole in ((tmp_path / "a.json", gzip.decompress(MATMUL.read_bytes())), (tmp_path / "b", None)):
        data = whole if whole is not None else TUTORIAL.read_bytes()
        path.write_bytes(data[: len(data) * percent // 100])
        trace = read_trace(path)
        assert trace.truncated
        assert trace.counts.damaged == 0


def test_a_truncated_file_loses_only_its_last_event(tmp_path: Path) -> None:
    text = as_text([event("cpu_op", f"op{index}", index, 1) for index in range(50)], "kineto")
    for cut in range(len(text) // 3, len(text) // 3 + 400):
        path = tmp_path / "t.json"
        path.write_bytes(text[:cut])
        whole = text[:cut].count(b"\n  },") + (text[:cut].endswith(b"\n  }"))
        assert len(read_trace(path).ops) == whole


def test_one_damaged_event_costs_only_itself(tmp_path: Path) -> None:
    many = [event("cpu_op", f"op{index}", index, 1) for index in range(100)]
    for layout in ("kineto", "dense", "lines"):
        text = as_text(many, layout).replace(b'"op42"', b'"op42\xff').replace(b'"op77"', b'op77"')
        path = tmp_path / "t.json"
        path.write_bytes(text)
        trace = read_trace(path, chunk_bytes=2000)
        assert len(trace.ops) >= 97
        assert trace.truncated is None
        assert trace.counts.damaged == trace.counts.damaged > 0


def test_fields_of_unexpected_types_do_not_lose_the_event(tmp_path: Path) -> None:
    odd = [
        event("cpu_op", "string times", 0, 0) | {"ts": "5.5", "dur": "1"},
        event("cpu_op", "list args", 6, 1, args=[1, 2]),
        event("cpu_op", 7, 8, 1),
        kernel(9, 1, "12"),
        kernel(9, 1, -5) | {"args": {"device": "1", "stream": "7", "correlation": 2**70}},
    ]
    trace = read_trace(write(tmp_path / "t.json", odd))
    assert len(trace.ops) == 3
    assert sorted(trace.gpu.correlation.tolist()) == [NO_CORRELATION, 12]
    assert [device.id for device in trace.devices] == [0, 1]


def test_impossible_times_are_left_out_and_counted(tmp_path: Path) -> None:
    base = 1.7e12
    good = [event("cpu_op", "a", base + index, 1) for index in range(9)]
    bad = [
        event("cpu_op", "negative", base, -5),
        event("cpu_op", "zero", 0, 1),
        event("cpu_op", "far", base * 2, 1),
        event("cpu_op", "huge", base, 1e30),
        event("cpu_op", "no time", 0, 1) | {"ts": None},
    ]
    trace = read_trace(write(tmp_path / "t.json", good + bad))
    assert len(trace.ops) == 9
    assert trace.counts.dropped == 5
    assert trace.ops.start_ns.tolist() == [1000 * index for index in range(9)]


@pytest.mark.parametrize(("streams", "left"), [([7, 7], 0), ([7, 8], 2), ([7], 1), ([7, 7, 8], 1), ([7, 7, 7], 0)])
def test_several_gpu_events_of_a_stream_at_time_0_have_no_time(tmp_path: Path, streams: list[int], left: int) -> None:
    at_zero = [kernel(0, 5 + index, index + 1, "early", stream=stream) for index, stream in enumerate(streams)]
    later = [kernel(100 + 10 * index, 5, 50 + index, stream=7 + index % 2) for index in range(8)]
    trace = read_trace(write(tmp_path / "t.json", [*later, *at_zero]))
    assert len(trace.gpu) == 8 + left
    assert trace.counts.dropped == len(streams) - left


def test_the_autograd_profilers_own_export_is_read(tmp_path: Path) -> None:
    text = '[{"name": "aten::add", "ph": "X", "ts": 1.5, "dur": 2, "tid": 1, "pid": "CPU functions", "args": {}}]'
    path = tmp_path / "t.json"
    path.write_text(text)
    assert len(read_trace(path).ops) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"hello", "not a trace"),
        (b"\x89PNG\r\n", "not a trace"),
        (b'{"a": 1}', "not a trace"),
        (b'{"traceEvents": 3}', "not a trace"),
        (b"[1, 2, 3]", "not a trace"),
        (b"\x1f\x8b\x08garbage", "not a trace"),
        (gzip.compress(b"no json", mtime=0), "not a trace"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=words) as refused:
        read_trace(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(TraceError):
            read_trace(path)


@pytest.mark.parametrize("text", ['{"traceEvents": []}', "[]", '{"traceEvents": [\n],\n"traceName": "x"}'])
def test_a_trace_without_events_is_a_trace(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    trace = read_trace(path)
    assert trace.counts.events == 0
    assert trace.truncated is None


def test_progress_reaches_the_size_of_the_file() -> None:
    seen: list[tuple[int, int]] = []
    read_trace(TUTORIAL, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (TUTORIAL.stat().st_size, TUTORIAL.stat().st_size)


def test_tables_are_sorted(tmp_path: Path) -> None:
    trace = read_trace(TUTORIAL)
    order = np.lexsort((-trace.ops.end_ns, trace.ops.start_ns, trace.ops.thread))
    assert np.array_equal(order, np.arange(len(trace.ops)))
    shuffled = [launch(5, 1, 1), event("cpu_op", "b", 3, 1), event("cpu_op", "a", 1, 9), event("cpu_op", "c", 1, 2)]
    ops = read_trace(write(tmp_path / "t.json", shuffled))
    assert [ops.names[index] for index in ops.ops.name] == ["a", "c", "b"]


def test_threads_are_numbered_by_name_however_the_file_was_cut(tmp_path: Path) -> None:
    labels: list[tuple[object, object]] = [(1, "two"), (2, 1), ("one", "two"), (1, 10), (1, 9)]
    found = [event("cpu_op", "aten::mm", at, 1) | {"pid": pid, "tid": tid} for at, (pid, tid) in enumerate(labels)]
    found[1]["cat"] = "user_annotation"  # categories are collected one after another
    trace = read_trace(write(tmp_path / "t.json", found, "kineto"))
    assert trace.threads == [(1, 9), (1, 10), (1, "two"), (2, 1), ("one", "two")]
    assert [trace.threads[number] for number in trace.spans.thread] == [(2, 1)]
