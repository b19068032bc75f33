"""A wait of the host during which the GPU shows nothing means missing records, unless the trace explains it."""

from pathlib import Path

import pytest
from missing_records import Events, completeness_of, eager, the_only
from traces import event, kernel, launch


def blocked(call: str, copy: str | None, gpu_us: float, pending: bool = True) -> Events:
    """Return five steps of 100 ms: kernels for `gpu_us`, then the host waits in a call until 90 ms."""
    made: Events = []
    for step in range(5):
        at, ids = 100_000 * step, 100 * step
        for index in range(10):
            made.append(launch(at + 10 * index, 5, ids + index + 1))
            made.append(kernel(at + 20 + index * gpu_us / 10, gpu_us / 10 - 1, ids + index + 1))
        made.append(launch(at + 400, 89_600, ids + 50, call))
        if copy:
            made.append({**kernel(at + 89_900, 20, ids + 50, copy), "cat": "gpu_memcpy"})
        elif pending:
            made += [launch(at + 200, 5, ids + 60), kernel(at + 89_900, 20, ids + 60)]
    return made


@pytest.mark.parametrize(
    ("call", "copy"),
    [
        ("cudaMemcpyAsync", "Memcpy DtoH (Device -> Pageable)"),
        ("hipMemcpyWithStream", "Memcpy DtoH (Device -> Host)"),
        ("cudaStreamSynchronize", None),
    ],
)
def test_a_wait_during_which_the_gpu_shows_nothing_means_missing_records(
    tmp_path: Path, call: str, copy: str | None
) -> None:
    found = completeness_of(tmp_path, blocked(call, copy, gpu_us=18_000))
    assert not found.complete
    missing = the_only(found)
    assert (missing.kind, missing.count, missing.decisive) == ("gpu_during_wait", 5, True)
    assert call in missing.what
    assert "359.4 ms" in missing.what  # 5 x (89.9 - 18.02)


@pytest.mark.parametrize(
    ("call", "copy", "gpu_us"),
    [
        ("cudaStreamSynchronize", None, 89_800),  # the GPU works all the time
        ("cudaMemcpyAsync", "Memcpy HtoD (Pageable -> Device)", 18_000),  # the driver stages the copy on the host
        ("cudaMalloc", None, 18_000),
    ],
)
def test_a_wait_that_the_trace_explains_is_no_missing_record(
    tmp_path: Path, call: str, copy: str | None, gpu_us: float
) -> None:
    assert completeness_of(tmp_path, blocked(call, copy, gpu_us)).missing == []


def test_a_wait_with_nothing_launched_is_suspected_only_if_it_is_long(tmp_path: Path) -> None:
    for wait_us, complete in ((9_000, True), (90_000, False)):
        steps = [{**one, "ts": one["ts"] + 100_000 * step} for step in range(3) for one in eager(10)]
        waits = [
            event("hip_runtime", "hipEventSynchronize", 100_000 * step + 1_000, wait_us, args={"correlation": 777})
            for step in range(3)
        ]
        assert completeness_of(tmp_path, steps + waits).complete == complete


def one_wait(begin_us: int, blind_us: int, recorded_us: int, *, pending: bool) -> Events:
    """Return a wait in which the GPU shows nothing for `blind_us`, in a recording of this length."""
    end_us = begin_us + blind_us
    made = [
        event("user_annotation", "run", 0, recorded_us),
        launch(10, 5, 1),
        kernel(20, begin_us - 20, 1),
        event("cuda_runtime", "cudaDeviceSynchronize", 100, end_us - 100),
    ]
    return [*made, launch(50 if pending else end_us, 5, 2), kernel(end_us, recorded_us - end_us, 2)]


@pytest.mark.parametrize(
    ("blind_us", "pending", "found"), [(999, True, 0), (1_000, True, 1), (9_999, False, 0), (10_000, False, 1)]
)
def test_the_shortest_wait_that_is_suspected(tmp_path: Path, blind_us: int, pending: bool, found: int) -> None:
    assert len(completeness_of(tmp_path, one_wait(500, blind_us, 12_000, pending=pending)).missing) == found


@pytest.mark.parametrize(("blind_us", "complete"), [(19_999, True), (20_000, False)])
def test_the_smallest_share_of_waits_that_decides(tmp_path: Path, blind_us: int, complete: bool) -> None:
    found = completeness_of(tmp_path, one_wait(500, blind_us, 100_000, pending=True))
    assert the_only(found).kind == "gpu_during_wait"
    assert found.complete == complete
