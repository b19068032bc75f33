"""Memory of torch's allocators: peak, growth and the places that hold it, against slow counts and a planted leak."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traces import event, write

from roseinfer.cli.rendering.html_page import to_html
from roseinfer.trace import summarize_trace
from roseinfer.trace.summary.memory_structs import DeviceMemory

Events = list[dict[str, Any]]


def memory(ts: float, size: int, total: int, address: int, device: int = 0, reserved: int = 1 << 30) -> dict[str, Any]:
    args = {"Total Reserved": reserved, "Total Allocated": total, "Bytes": size, "Addr": address}
    args |= {"Device Id": device, "Device Type": 0 if device < 0 else 1}
    made = {"ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]", "pid": 412, "tid": 412}
    return made | {"ts": ts, "args": args}


@st.composite
def programs(draw: st.DrawFn) -> Events:
    """Return operators that allocate, and frees of some of the tensors, on two devices; addresses are used again."""
    events: Events = []
    total = {0: draw(st.integers(0, 1 << 20)), -1: 0}
    held: dict[tuple[int, int], int] = {}
    for index in range(draw(st.integers(1, 40))):
        at, device = 10 * index, draw(st.sampled_from([0, 0, -1]))
        events.append(event("cpu_op", draw(st.sampled_from(["aten::empty", "aten::mm"])), at, 8))
        mine = [key for key in held if key[0] == device]
        if mine and draw(st.booleans()):
            key = draw(st.sampled_from(mine))
            size = -held.pop(key)
        else:
            key = (device, draw(st.integers(1, 6)))
            if key in held:
                continue
            size = held[key] = draw(st.integers(1, 1 << 20))
        total[device] += size
        events.append(memory(at + 2, size, total[device], key[1], device))
    return events


def slow_memory(events: Events, device: int) -> tuple[int, dict[str, int], dict[str, int]]:
    """Return (peak, bytes by operator held at the peak, bytes by operator held at the end), event by event."""
    held: dict[int, tuple[str, int]] = {}
    peak, at_peak = -1, {}
    operator = ""

    def by_operator() -> dict[str, int]:
        found: defaultdict[str, int] = defaultdict(int)
        for name, size in held.values():
            found[name] += size
        return dict(found)

    for one in events:
        operator = one["name"] if one["cat"] == "cpu_op" else operator
        args = one.get("args", {})
        if one["name"] != "[memory]" or args["Device Id"] != device:
            continue
        if args["Bytes"] > 0:
            held[args["Addr"]] = (operator, args["Bytes"])
        else:
            held.pop(args["Addr"], None)
        if args["Total Allocated"] > peak:
            peak, at_peak = args["Total Allocated"], by_operator()
    return peak, at_peak, by_operator()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(events=programs())
def test_peak_and_holders_agree_with_a_slow_count(tmp_path: Path, events: Events) -> None:
    for row in summarize_trace(write(tmp_path / "t.json", events)).memory:
        peak, at_peak, at_end = slow_memory(events, -1 if row.device is None else row.device)
        assert row.peak_bytes == peak
        assert {held.operator: held.bytes for held in row.at_peak} == at_peak
        assert {held.operator: held.bytes for held in row.at_end} == at_end
        assert row.before_bytes == max(0, peak - sum(at_peak.values()))
        assert max(point.allocated_bytes for point in row.timeline) == peak
        assert row.end_bytes - row.start_bytes == sum(
            one["args"]["Bytes"]
            for one in events
            if one["name"] == "[memory]" and one["args"]["Device Id"] == (-1 if row.device is None else row.device)
        )


def steps(sizes: list[int]) -> Events:
    """Return steps at whose ends so many bytes are in tensors."""
    events: Events = []
    before = 0
    for index, size in enumerate(sizes):
        events.append(event("user_annotation", f"ProfilerStep#{index}", 100 * index, 95))
        events.append(event("cpu_op", "aten::cat", 100 * index + 10, 50))
        events.append(memory(100 * index + 20, size - before, size, 1000 + index))
        before = size
    return events


def summarized(folder: Path, sizes: list[int]) -> tuple[DeviceMemory, bool]:
    summary = summarize_trace(write(folder / "t.json", steps(sizes)))
    return summary.memory[0], any(finding.id == "memory_growth" for finding in summary.findings)


def test_without_totals_memory_is_the_sum_of_what_was_allocated_and_freed(tmp_path: Path) -> None:
    events = [event("cpu_op", "aten::empty", 0, 100)]
    for at, (size, address) in enumerate([(100, 1), (50, 2), (-100, 1), (30, 3)], 1):
        events.append(memory(at, size, 0, address))
        del events[-1]["args"]["Total Allocated"]
    (found,) = summarize_trace(write(tmp_path / "t.json", events)).memory
    assert (found.start_bytes, found.peak_bytes, found.peak_ms, found.end_bytes) == (0, 150, 0.002, 80)


def test_growth_is_told_per_step(tmp_path: Path) -> None:
    row, is_told = summarized(tmp_path, [(5 + index) << 20 for index in range(8)])
    assert (row.growth_bytes_per_step, row.is_growing, is_told) == (1 << 20, True, True)


@pytest.mark.parametrize(
    "sizes",
    [
        [5 << 20] * 8,
        [5 << 20, 50 << 20, *[50 << 20] * 6],
        [(5 + index % 2) << 20 for index in range(8)],
        [(5 << 20) + index for index in range(8)],
    ],
    ids=["constant", "optimizer state", "up and down", "bytes"],
)
def test_memory_that_does_not_keep_growing_is_no_finding(tmp_path: Path, sizes: list[int]) -> None:
    row, is_told = summarized(tmp_path, sizes)
    assert (row.is_growing, is_told) == (False, False)


def test_the_page_plots_memory_and_names_who_holds_the_peak(tmp_path: Path) -> None:
    summary = summarize_trace(write(tmp_path / "t.json", steps([(5 + index) << 20 for index in range(8)])))
    page = to_html(summary)
    assert '<polygon class="allocated"' in page
    assert "peak 12.6 MB" in page
    assert "aten::cat" in page


def test_peak_and_growth_of_a_recording_with_a_planted_leak(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from benchmarks.memory_traces import LARGE_BYTES, LEAK_BYTES, missed, record

    path = tmp_path / "t.json"
    truth = record(path, "cpu")
    assert missed(path, truth) is None
    row = next(one for one in summarize_trace(path).memory if one.device is None)
    totals = [
        one["args"]["Total Allocated"]
        for one in json.loads(path.read_text())["traceEvents"]
        if one.get("name") == "[memory]"
    ]
    assert row.peak_bytes == max(totals)
    assert row.peak_bytes - row.start_bytes >= LARGE_BYTES + 5 * LEAK_BYTES
    assert "growth of" in str(missed(path, {**truth, "growth_bytes_per_step": 1}))
