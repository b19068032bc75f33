"""Traces that would take minutes or gigabytes are refused in one line, before they are read to their end."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, write

from roseinfer.errors import TraceError
from roseinfer.trace import summarize_trace
from roseinfer.trace.reading import trace_limits
from roseinfer.trace.reading.trace_reader import read_trace

SMALL = 40
"""Limit that the tests set, so that they need few events."""

MAKERS: dict[str, tuple[str, str, Callable[[int], dict[str, Any]]]] = {
    "devices": ("MAX_DEVICES", "devices", lambda place: kernel(place, 1, place + 1, device=place)),
    "streams": ("MAX_LANES", "threads or streams", lambda place: kernel(place, 1, place + 1, stream=place)),
    "threads": ("MAX_LANES", "threads or streams", lambda place: event("cpu_op", "a", place, 1, tid=place)),
    "memory": (
        "MAX_DEVICES",
        "devices",
        lambda place: {
            **event("cpu_instant_event", "[memory]", place, 0, args={"Bytes": 1, "Device Type": 1, "Device Id": place}),
            "ph": "i",
        },
    ),
    "inputs": (
        "MAX_INPUTS",
        "different inputs of operators",
        lambda place: event("cpu_op", "a", place, 1, args={"Input Dims": [[place]], "Input type": ["float"]}),
    ),
    "names": ("MAX_NAMES", "names of events", lambda place: event("cpu_op", f"a{place}", place, 1)),
}


@pytest.mark.parametrize("what", MAKERS)
def test_counts_above_a_limit_are_refused_and_those_at_the_limit_are_read(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, words, make = MAKERS[what]
    monkeypatch.setattr(trace_limits, name, SMALL)
    path = write(tmp_path / "trace.json", [make(place) for place in range(SMALL)])
    assert read_trace(path).counts.events == SMALL
    path = write(tmp_path / "trace.json", [make(place) for place in range(SMALL + 1)])
    with pytest.raises(TraceError, match=f"more than 40 {words}, which no profiler records"):
        summarize_trace(path)


def test_a_gzipped_file_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_limits, "FREE_EXPANDED_BYTES", 1 << 20)
    path = tmp_path / "bomb.json.gz"
    one = b'{"ph":"X","cat":"cpu_op","name":"a","pid":1,"tid":1,"ts":1,"dur":1},'
    path.write_bytes(gzip.compress(b'{"traceEvents":[' + one * 100_000 + one[:-1] + b"]}"))
    with pytest.raises(TraceError, match="expands to more than 100 times its size"):
        summarize_trace(path)
    path.write_bytes(gzip.compress(b'{"traceEvents":[' + one * 1000 + one[:-1] + b"]}"))
    assert read_trace(path).counts.events == 1001
