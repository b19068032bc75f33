"""Ranks are told apart: several files, several processes in one file, and files that are no traces."""

import json
from pathlib import Path
from typing import Any

import pytest
from traces import write

from roseinfer.errors import TraceError
from roseinfer.trace import Summary, summarize_trace

Events = list[dict[str, Any]]


def half_busy(
    busy_us: float = 400, *, since: float = 0, pid: Any = 83, gpu_pid: Any = 0, device: int = 0, first_id: int = 1
) -> Events:
    """Return the events of a process that runs a kernel of `busy_us` every 1,000 us."""
    made: Events = []
    for index in range(40):
        ts, correlation = since + 1000 * index, first_id + index
        args = {"correlation": correlation}
        made.append(
            {"ph": "X", "cat": "cuda_runtime", "name": "launch", "pid": pid, "tid": pid, "ts": ts, "dur": 5}
            | {"args": args}
        )
        made.append(
            {"ph": "X", "cat": "kernel", "name": "gemm", "pid": gpu_pid, "tid": 7, "ts": ts + 100, "dur": busy_us}
            | {"args": args | {"device": device, "stream": 7}}
        )
    return made


def busy_shares(summary: Summary) -> dict[tuple[int, int], float]:
    return {(device.rank, device.id): device.busy_percent for device in summary.devices}


def notes(summary: Summary) -> str:
    return "\n".join(note.message for note in summary.trust)


def folder(path: Path, files: dict[str, Events], ranks: dict[str, int] | None = None) -> Path:
    for name, events in files.items():
        info = {"distributedInfo": {"rank": ranks[name]}} if ranks else {}
        (path / name).write_text(json.dumps({**info, "traceEvents": events}))
    return path


ALONE = {400: round(40 * 400 / 394, 2), 800: round(40 * 800 / 398, 2)}
"""Busy shares of `half_busy`, by its `busy_us`: 40 kernels in 39.4 ms, or in 39.8 ms."""


def test_processes_that_share_a_file_have_correlation_ids_of_their_own(tmp_path: Path) -> None:
    one = half_busy(400, pid="[TP00] 83", gpu_pid="[TP00] 0")
    other = half_busy(800, pid="[TP01] 84", gpu_pid="[TP01] 0", since=130)
    summary = summarize_trace(write(tmp_path / "merged.json", one + other))
    assert summary.trace.ranks == [0, 1]
    assert busy_shares(summary) == {(0, 0): ALONE[400], (1, 0): ALONE[800]}
    assert summary.gpu is not None
    assert (summary.gpu.replayed_percent, summary.gpu.linked_percent) == (0, 100)


@pytest.mark.parametrize("pids", [(200, 300), (3000, 200), ("1000", "99")])
def test_processes_without_labels_own_the_devices_that_they_launch_on(tmp_path: Path, pids: tuple[Any, Any]) -> None:
    """Both launch with the same ids, so that only the times tell which process launched on a device."""
    one = half_busy(400, pid=pids[0], device=0, gpu_pid=0)
    other = half_busy(800, pid=pids[1], device=1, gpu_pid=1, since=70)
    summary = summarize_trace(write(tmp_path / "merged.json", other + one))
    ranks = sorted(pids, key=int)
    expected = {(ranks.index(pids[0]), 0): ALONE[400], (ranks.index(pids[1]), 1): ALONE[800]}
    assert busy_shares(summary) == expected
    assert summary.gaps[0].cause == "host_late"


@pytest.mark.parametrize("gpu_pids", [(0, 100_000), ("rank0_0", "rank1_0")])
def test_processes_that_each_see_their_device_as_number_0_are_ranks(tmp_path: Path, gpu_pids: tuple[Any, Any]) -> None:
    one = half_busy(400, pid=83, gpu_pid=gpu_pids[0])
    other = half_busy(800, pid=100_084, gpu_pid=gpu_pids[1], since=70)
    summary = summarize_trace(write(tmp_path / "merged.json", other + one))
    assert busy_shares(summary) == {(0, 0): ALONE[400], (1, 0): ALONE[800]}
    assert summary.gpu is not None
    assert summary.gpu.replayed_percent == 0


def test_a_device_of_one_process_stays_one_whatever_the_pids_of_its_events(tmp_path: Path) -> None:
    events = half_busy(400)
    plain = summarize_trace(write(tmp_path / "plain.json", events))
    for index, one in enumerate(events):
        if one["cat"] == "kernel":
            one["pid"] = index % 3
    summary = summarize_trace(write(tmp_path / "mixed.json", events))
    assert (summary.devices, summary.budget) == (plain.devices, plain.budget)


def test_one_process_on_two_devices_is_one_rank(tmp_path: Path) -> None:
    events = half_busy(400) + half_busy(800, device=1, gpu_pid=1, first_id=100)
    summary = summarize_trace(write(tmp_path / "one.json", events))
    assert summary.trace.ranks == [0]
    assert busy_shares(summary) == {(0, 0): ALONE[400], (0, 1): ALONE[800]}


def test_a_process_that_launches_nothing_is_no_rank(tmp_path: Path) -> None:
    events = half_busy(400) + half_busy(400, device=1, gpu_pid=1, first_id=100)
    events.append({"ph": "X", "cat": "cpu_op", "name": "load", "pid": 999, "tid": 999, "ts": 0, "dur": 900})
    assert summarize_trace(write(tmp_path / "one.json", events)).trace.ranks == [0]


@pytest.mark.parametrize(
    ("names", "ranks"),
    [
        (("rank-0.pt.trace.json", "rank-1.pt.trace.json"), [0, 1]),
        (("worker3_step_12.169.pt.trace.json", "worker5_step_12.170.pt.trace.json"), [3, 5]),
        (("170-TP-0.trace.json", "170-TP-1.trace.json"), [0, 1]),
        (("170-TP-0-PP-0.json", "170-TP-1-PP-0.json"), [0, 1]),
    ],
)
def test_files_without_metadata_are_of_the_ranks_in_their_names(
    tmp_path: Path, names: tuple[str, str], ranks: list[int]
) -> None:
    summary = summarize_trace(folder(tmp_path, {names[0]: half_busy(800), names[1]: half_busy(400, pid=84)}))
    assert busy_shares(summary) == {(ranks[0], 0): ALONE[800], (ranks[1], 0): ALONE[400]}
    assert "guessed" not in notes(summary)


def test_overlapping_files_without_any_rank_are_ranks_with_a_warning(tmp_path: Path) -> None:
    summary = summarize_trace(folder(tmp_path, {"a.json": half_busy(800), "b.json": half_busy(400, pid=84)}))
    assert busy_shares(summary) == {(0, 0): ALONE[800], (1, 0): ALONE[400]}
    assert "guessed from their order" in notes(summary)


def test_overlapping_files_that_all_claim_rank_0_are_of_the_ranks_in_their_names(tmp_path: Path) -> None:
    files = {"rank0.json": half_busy(800), "rank1.json": half_busy(400, pid=84)}
    summary = summarize_trace(folder(tmp_path, files, ranks={"rank0.json": 0, "rank1.json": 0}))
    assert busy_shares(summary) == {(0, 0): ALONE[800], (1, 0): ALONE[400]}
    assert "those in their names" in notes(summary)


def test_files_that_follow_each_other_are_cycles_of_one_rank(tmp_path: Path) -> None:
    summary = summarize_trace(folder(tmp_path, {"a.json": half_busy(400), "b.json": half_busy(400, since=1e6)}))
    assert busy_shares(summary) == {(0, 0): ALONE[400]}
    assert notes(summary).count("guessed") == 0


def test_files_that_are_no_traces_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder(tmp_path, {"rank0.json": half_busy(400)})
    (tmp_path / "execution.json").write_text('{"schema": "1.0.2-chakra.0.0.4", "nodes": []}')
    (tmp_path / "numbers.json").write_text("[1, 2, 3]")
    summary = summarize_trace(tmp_path)
    assert busy_shares(summary) == {(0, 0): ALONE[400]}
    assert "execution.json: not a trace of torch.profiler but an execution trace of PyTorch" in notes(summary)
    assert "numbers.json: not a trace" in notes(summary)
    assert str(tmp_path) not in notes(summary)


@pytest.mark.parametrize("rank", [10**9, 10**40, -3, "x", None, 1.5, [1]])
def test_an_impossible_rank_is_no_rank(tmp_path: Path, rank: Any) -> None:
    for name, pid in (("a.json", 83), ("b.json", 84)):
        document = {"distributedInfo": {"rank": rank}, "traceEvents": half_busy(400, pid=pid)}
        (tmp_path / name).write_text(json.dumps(document))
    assert summarize_trace(tmp_path).trace.ranks == [0, 1]


def test_labels_of_processes_may_hold_any_number(tmp_path: Path) -> None:
    numbers = ("9" * 5000, "7")
    events = [one for number in numbers for one in half_busy(pid=f"[TP{number}] 1", gpu_pid=f"[TP{number}] 0")]
    assert summarize_trace(write(tmp_path / "merged.json", events)).trace.ranks == [0, 1]


def test_a_folder_without_any_trace_is_refused_by_its_first_file(tmp_path: Path) -> None:
    (tmp_path / "execution.json").write_text('{"schema": "1.0.2-chakra.0.0.4", "nodes": []}')
    with pytest.raises(TraceError, match="an execution trace of PyTorch"):
        summarize_trace(tmp_path)
