"""Launches of a CUDA graph's capture are no missing records, and decide the verdict only if they fill the recording."""

from pathlib import Path

import pytest
from missing_records import Events, completeness_of, eager, summary_of
from traces import event, kernel, launch


def test_launches_during_a_capture_are_no_missing_records(tmp_path: Path) -> None:
    captured = [
        one
        for index in range(50)
        for one in (event("cpu_op", "aten::mm", 1000 + 20 * index, 15), launch(1002 + 20 * index, 5, 500 + index))
    ]
    capture = [
        event("cuda_runtime", "cudaStreamBeginCapture", 990, 5),
        event("cuda_runtime", "cudaStreamEndCapture", 2000, 500),
    ]
    found = completeness_of(tmp_path, eager(8) + captured + capture)
    assert found.complete
    assert found.missing == []
    assert found.capture is not None
    assert (found.capture.captures, found.capture.launches) == (1, 50)
    assert (found.capture.from_ms, found.capture.to_ms, found.capture.ms) == (0.99, 2.5, 1.51)
    assert found.capture.percent == 60.4


def test_a_capture_that_the_recording_cuts_off_reaches_to_its_edge(tmp_path: Path) -> None:
    captured = [launch(1002 + 20 * index, 5, 500 + index) for index in range(50)]
    begin = event("cuda_runtime", "cudaStreamBeginCapture", 990, 5)
    end = event("hip_runtime", "hipStreamEndCapture", 2000, 500)
    for cut, times in (([begin], (0.99, 1.987)), ([end], (0.0, 2.5))):
        found = completeness_of(tmp_path, eager(8) + captured + cut)
        assert found.complete
        assert found.capture is not None
        assert found.capture.launches == 50
        assert (found.capture.from_ms, found.capture.to_ms) == times


def captured_then_replayed(capture_us: float, replays_after: int) -> Events:
    """Return a capture of 50 launches, then replays of 50 kernels each, 1 ms apart."""
    made = [
        event("cuda_runtime", "cudaStreamBeginCapture", 0, 5),
        *[launch(10 + index * capture_us / 60, 2, 9000 + index) for index in range(50)],
        event("cuda_runtime", "cudaStreamEndCapture", capture_us - 5, 5),
    ]
    for replay in range(replays_after):
        at = capture_us + 1000 * replay
        made.append(launch(at + 10, 20, replay + 1, "cudaGraphLaunch"))
        made += [kernel(at + 40 + 19 * index, 18, replay + 1, f"k{index % 5}") for index in range(50)]
    return made


@pytest.mark.parametrize(
    ("capture_us", "replays_after", "is_capture"),
    [(3_000, 0, True), (3_000, 1, True), (3_000, 5, False), (30_000, 5, True), (30_000, 60, False)],
)
def test_a_capture_decides_the_verdict_only_if_it_fills_the_recording(
    tmp_path: Path, capture_us: float, replays_after: int, is_capture: bool
) -> None:
    events = captured_then_replayed(capture_us, replays_after)
    found = completeness_of(tmp_path, events)
    assert found.complete
    assert found.capture is not None
    assert found.capture.launches == 50
    assert (summary_of(tmp_path, events).verdict.kind == "capture") == is_capture
