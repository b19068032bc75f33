"""A trace that several processes read, each a part of it, is the one that a single process reads."""

import gzip
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_trace_reader import events
from traces import LAYOUTS, MATMUL, TUTORIAL, event, kernel, write

from roseinfer.errors import TraceError
from roseinfer.trace import summarize_trace
from roseinfer.trace.reading import parallel_reading
from roseinfer.trace.reading.columns import HostTable, MemoryTable, Trace
from roseinfer.trace.reading.trace_builder import TraceBuilder
from roseinfer.trace.reading.trace_reader import read_trace


@dataclass
class InProcess:
    """Stands in for a worker process, which would read the same part."""

    path: Path
    part: tuple[int, int]
    chunk_bytes: int

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def result(self) -> TraceBuilder | None:
        return parallel_reading.read_part(self.path, self.part, self.chunk_bytes)


def content(trace: Trace) -> list[object]:
    """Return what a trace holds, with numbers of names, threads and the like replaced by what they stand for."""
    numbered: dict[str, list[Any]] = {
        "name": trace.names,
        "thread": trace.threads,
        "inputs": [*trace.inputs, None],
        "message": [*trace.messages, None],
    }
    found: list[object] = [trace.counts, trace.truncated, trace.metadata, trace.devices, trace.platform]
    for table in (trace.ops, trace.spans, trace.calls, trace.frames, trace.numbered_ops, trace.gpu):
        found += [told(getattr(table, name), numbered.get(name)) for name in table.__struct_fields__]
    for name in HostTable.__struct_fields__:
        things = trace.messages if name == "correlation" else numbered.get(name)
        found.append(told(getattr(trace.message_ops, name), things))
    numbered["device"] = trace.memory_devices
    found += [told(getattr(trace.memory, name), numbered.get(name)) for name in MemoryTable.__struct_fields__]
    return [*found, sorted(trace.dropped_gpu.tolist())]


def told(column: NDArray[Any], things: list[Any] | None) -> list[Any]:
    return column.tolist() if things is None else [things[number] for number in column]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=events(), layout=st.sampled_from(LAYOUTS), parts=st.integers(2, 5), damage=st.integers(0, 3000))
def test_parts_cut_anywhere_hold_what_the_whole_holds(
    tmp_path: Path, events: list[dict[str, object]], layout: str, parts: int, damage: int
) -> None:
    path = write(tmp_path / "t.json", events, layout)
    data = path.read_bytes()
    if damage % 3 == 0 and layout != "gzip":  # one byte of one in three files
        at = damage % len(data)
        path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])

    def read(processes: int) -> object:
        try:
            return content(read_trace(path, processes=processes))
        except TraceError as error:
            return str(error)

    with patch.object(parallel_reading, "_Worker", InProcess):
        assert repr(read(parts)) == repr(read(1))


@pytest.mark.parametrize("recorded", [TUTORIAL, MATMUL])
def test_processes_read_a_recorded_trace_as_one_does(tmp_path: Path, recorded: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(gzip.decompress(recorded.read_bytes()))
    seen: list[tuple[int, int]] = []
    size = path.stat().st_size
    with patch.object(parallel_reading, "_MAX_PROCESSES", 3):
        several = read_trace(path, processes=3, on_progress=lambda done, total: seen.append((done, total)))
    assert repr(content(several)) == repr(content(read_trace(path)))
    assert seen[-1] == (size, size)
    assert all(total == size and 0 <= done <= size for done, total in seen)


def test_operators_messages_and_memory_keep_what_they_point_to(tmp_path: Path) -> None:
    made = []
    for index in range(60):
        shapes = {"Input Dims": [[index % 7, 4]], "Input type": ["float"], "Sequence number": index, "Fwd thread id": 1}
        made.append(event("cpu_op", f"aten::mm{index % 5}", index * 10, 4, args=shapes))
        sent = {"Collective name": f"reduce{index % 3}", "Process Group Name": "pg", "In msg nelems": index}
        made.append(event("cpu_op", "record_param_comms", index * 10 + 5, 1, args=sent))
        made.append(kernel(index * 10, 3, index + 1, f"k{index % 4}", stream=index % 6, device=index % 2))
        made[-1]["args"] |= sent
        grown = {"Bytes": index, "Addr": index, "Device Type": index % 2, "Device Id": index % 3}
        made.append({"ph": "i", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1, "tid": index % 3})
        made[-1] |= {"ts": index * 10 + 1, "args": grown}
    path = write(tmp_path / "t.json", made)
    with patch.object(parallel_reading, "_Worker", InProcess):
        for processes in (2, 3, 7):
            assert repr(content(read_trace(path, processes=processes))) == repr(content(read_trace(path)))


def test_a_worker_that_cannot_start_costs_nothing_but_time(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(gzip.decompress(MATMUL.read_bytes()))
    with patch.object(sys, "path", []):
        assert len(read_trace(path, processes=2).gpu) == len(read_trace(path).gpu)


def test_a_large_file_is_read_by_the_cores_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(gzip.decompress(TUTORIAL.read_bytes()))
    one = summarize_trace(path)
    with (
        patch.object(parallel_reading, "_PART_BYTES", path.stat().st_size // 2),
        patch.object(parallel_reading, "available_cores", lambda: (2, 2)),
    ):
        assert parallel_reading.processes_for(path.stat().st_size) == 2
        assert summarize_trace(path) == one
    with patch.object(parallel_reading, "available_cores", lambda: (1, 2)):
        assert parallel_reading.processes_for(1 << 40) == 1


def test_no_worker_outlives_a_reader_that_is_killed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [event("cpu_op", "a", index, 1) for index in range(8_000)], "dense")
    code = (
        "from pathlib import Path; from roseinfer.trace.reading import parallel_reading as p; import time, sys\n"
        f"worker = p._Worker(Path({str(path)!r}), (0, {path.stat().st_size}), 4096)\n"
        "print(worker._process.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        worker = int(reader.stdout.readline())
        reader.send_signal(signal.SIGKILL)
    for _ in range(600):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker still runs")
