"""The summary says when the trace was recorded, and with which software: from the trace and its manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from traces import MATMUL, TUTORIAL, event

from roseinfer.trace import summarize_trace
from roseinfer.trace.summary.trace_summary import Recording

OP = event("cpu_op", "aten::mm", 1_000_000, 5)


def _recording(tmp_path: Path, ts: float = 1_000_000, **head: Any) -> Recording:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**head, "traceEvents": [OP | {"ts": ts}]}))
    return summarize_trace(path).recording


def test_recorded_traces_say_when_they_were_recorded() -> None:
    assert summarize_trace(TUTORIAL).recording.recorded_at == "2026-11-22T20:06:45Z"
    assert summarize_trace(MATMUL).recording.recorded_at == "2026-11-22T20:07:16Z"
    assert summarize_trace(TUTORIAL).recording.versions == {"cuda": "13.0"}


def test_times_count_from_the_base_time_of_the_trace(tmp_path: Path) -> None:
    assert _recording(tmp_path, baseTimeNanoseconds=1_700_000_000 * 10**9).recorded_at == "2023-11-14T22:13:21Z"
    assert _recording(tmp_path, baseTimeNanoseconds=str(1_700_000_000 * 10**9)).recorded_at == "2023-11-14T22:13:21Z"


def test_times_of_old_traces_count_from_1970(tmp_path: Path) -> None:
    assert _recording(tmp_path, ts=1_623_143_093_498_422).recorded_at == "2021-06-08T09:04:53Z"


@pytest.mark.parametrize("base", [0, -5, 10**15, 10**20, "now", None, [1], 1.5e308])
def test_an_implausible_time_is_no_time(tmp_path: Path, base: object) -> None:
    assert _recording(tmp_path, baseTimeNanoseconds=base).recorded_at is None


@pytest.mark.parametrize(
    ("head", "versions"),
    [
        ({"cuda_runtime_version": 12040}, {"cuda": "12.4"}),
        ({"cuda_runtime_version": "11080"}, {"cuda": "11.8"}),
        ({"hip_runtime_version": 70253211}, {"rocm": "7.2"}),
        ({"distributedInfo": {"nccl_version": "2.27.7"}}, {"nccl": "2.27.7"}),
        ({"cuda_runtime_version": "N/A", "distributedInfo": {"nccl_version": [2]}}, {}),
        ({"cuda_runtime_version": -3, "hip_runtime_version": 1e308}, {}),
    ],
)
def test_versions_come_from_the_trace(tmp_path: Path, head: dict[str, Any], versions: dict[str, str]) -> None:
    assert _recording(tmp_path, **head).versions == versions


def test_versions_of_the_manifest_come_first(tmp_path: Path) -> None:
    versions = {"torch": "2.13.0", "cuda": "13.1", "triton": None, "python": "3.11.7"}
    manifest = {"schema_version": 1, "versions": versions}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    recording = _recording(tmp_path, cuda_runtime_version=12040)
    assert recording.versions == {"cuda": "13.1", "python": "3.11.7", "torch": "2.13.0"}


def test_a_folder_was_recorded_when_its_first_file_was(tmp_path: Path) -> None:
    for number, base in enumerate((1_800_000_000, 1_700_000_000)):
        head = {"baseTimeNanoseconds": base * 10**9, "distributedInfo": {"rank": number}}
        (tmp_path / f"rank{number}.json").write_text(json.dumps({**head, "traceEvents": [OP]}))
    assert summarize_trace(tmp_path).recording.recorded_at == "2023-11-14T22:13:21Z"
