"""Files of other tools are refused, and the message says what they are."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from roseinfer.errors import TraceError
from roseinfer.trace.reading.trace_reader import read_trace


def lines(*values: Any) -> bytes:
    return "\n".join(json.dumps(value) for value in values).encode()


def document(value: Any) -> bytes:
    return json.dumps(value).encode()


def archive(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as files:
        entry = tarfile.TarInfo("rank0.json")
        entry.size = len(content)
        files.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


NSYS = lines(*[{"Type": 79, "CudaEvent": {"startNs": str(at), "kernel": {"shortName": "7"}}} for at in range(3)])
JAX = document(
    {
        "displayTimeUnit": "ns",
        "metadata": {"highres-ticks": True},
        "traceEvents": [
            {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:TPU:0"}},
            {"ph": "X", "pid": 1, "tid": 2, "ts": 1.5, "dur": 9, "name": "fusion.1", "args": {"long_name": "fusion"}},
        ],
    }
)
BROWSER = document(
    {
        "traceEvents": [
            {"ph": "X", "cat": "toplevel", "name": "RunTask", "pid": 1, "tid": 1, "ts": 1, "dur": 3, "args": {}},
            {"ph": "X", "cat": "blink,devtools.timeline", "name": "Layout", "pid": 1, "tid": 1, "ts": 1, "dur": 2},
        ]
    }
)
VIZ = document({"traceEvents": [{"ph": "X", "cat": "FEE", "name": "f", "pid": 1, "tid": 1, "ts": 1, "dur": 1}]})
NET_LOG = document({"constants": {"clientInfo": {}, "logEventTypes": {"REQUEST": 1}}, "events": []})
SPEEDSCOPE = document({"$schema": "https://www.speedscope.app/file-format-schema.json", "profiles": []})
SNAPSHOT = document({"segments": [{"address": 1}], "device_traces": [[]]})
EXECUTION = document({"schema": "1.1.1-chakra.0.0.4", "pid": 3, "nodes": [{"id": 1, "name": "aten::mm"}]})
SUMMARY = document({"schema_version": 2, "trace": {"path": "t.json"}, "verdict": {"kind": "gpu_bound"}})


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.json", NSYS, "JSON lines of Nsight Systems"),
        ("a.json", document([{"Time (%)": 50.1, "Name": "gemm"}]), "a table of Nsight Systems"),
        ("a.json", JAX, "a trace of JAX or TensorFlow"),
        ("a.json.gz", gzip.compress(JAX), "a trace of JAX or TensorFlow"),
        ("traces.tar.gz", gzip.compress(archive(BROWSER)), "a tar archive, which must be unpacked first"),
        ("traces.tgz", gzip.compress(archive(b"{}")), "a tar archive, which must be unpacked first"),
        ("traces", archive(b"{}"), "a tar archive, which must be unpacked first"),
        ("a.json", BROWSER, "a trace of the Chrome browser"),
        ("a.json", VIZ, "a trace of VizTracer"),
        ("a.json", NET_LOG, "a net-log of the Chrome browser"),
        ("a.json", SPEEDSCOPE, "a profile in the format of speedscope"),
        ("a.json", SNAPSHOT, "a memory snapshot of PyTorch"),
        ("a.json", EXECUTION, "an execution trace of PyTorch, without times"),
        ("a.json", SUMMARY, "a summary that roseinfer summarize wrote"),
        ("a.json", document({"schema_version": 1, "traces": []}), "a manifest or result of roseinfer"),
        ("a.sqlite", b"SQLite format 3\0" + bytes(100), "an SQLite database, such as Nsight Systems exports"),
        ("a.nsys-rep", b"\x01\x02binary", "a report of Nsight Systems"),
        ("a.pftrace", b"\n\x12\x08\x01\x02\x03", "a Perfetto protobuf trace"),
        ("trace", b"\n\xf0\x01\x08\x01\x02\x03", "a protobuf, such as a Perfetto or XPlane trace"),
        ("a.pickle", pickle.dumps({"segments": []}), "a pickle, such as PyTorch's memory snapshots"),
        ("snapshot", pickle.dumps({"segments": []}), "a pickle, such as PyTorch's memory snapshots"),
        ("a.pt", b"PK\x03\x04" + bytes(30), "a zip archive, such as torch.save writes"),
        ("a.json", b"<!DOCTYPE html><html></html>", "an HTML page"),
    ],
)  # fmt: skip
def test_a_file_of_another_tool_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert f"not a trace of torch.profiler but {what}: give the .json" in str(error.value)
    assert error.value.exit_code == 1


@pytest.mark.parametrize("content", [b"\n\n  {\n", b"hello", b'{"a": 1}', b"[1, 2]", b'[{"a": 1}, {"b": 2}]'])
def test_a_file_that_nobody_knows_is_not_given_a_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match="not a trace: no"):
        read_trace(path)


def test_words_of_other_tools_in_a_trace_of_torch_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    events = [
        {"ph": "X", "cat": "cpu_op", "name": '"hlo_op": "/host:CPU viztracer', "pid": 1, "tid": 1, "ts": 1, "dur": 3},
        {"ph": "X", "cat": "toplevel", "name": "other", "pid": 1, "tid": 1, "ts": 1, "dur": 3},
    ]
    path.write_bytes(document({"traceEvents": events}))
    assert len(read_trace(path).ops) == 1
