"""Ranks on CPUs: collectives run on threads of their own, and the other ranks are no other programs."""

import json
from pathlib import Path

import pytest
from case_traces import manifest
from traces import event, write

from roseinfer.cli.rendering.budget_sheets import budget_sheets
from roseinfer.cli.rendering.rank_sheets import rank_sheet
from roseinfer.trace import Summary, summarize_trace


def run(folder: Path, ranks: int, idle: float = 0.4) -> Summary:
    """Summarize 4 steps of 10 ms per rank: 1 ms in an operator, 8 ms in a span around a collective of 1.5 ms."""
    folder.mkdir()
    for rank in range(ranks):
        events = []
        for step in range(4):
            at = 10_000 * step
            events.append(event("user_annotation", "roseinfer.step[decode bs=8 tokens=8]", at, 10_000))
            events.append(event("cpu_op", "aten::mm", at, 1_000))
            events.append(event("user_annotation", "roseinfer.join", at + 1_000, 8_000))
            events.append(event("user_annotation", "gloo:all_reduce", at + 2_000, 1_500, tid=2))
        name = f"rank{rank}-cycle0.pt.trace.json"
        path = write(folder / name, events)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"distributedInfo": {"rank": rank}}))
    recorded = manifest(floor_ms=1.0, threads=1, cores=2, used=0.8, idle=idle)
    (folder / "manifest.json").write_text(json.dumps(recorded))
    return summarize_trace(folder)


@pytest.fixture
def two(tmp_path: Path) -> Summary:
    return run(tmp_path / "two", 2)


def test_time_in_collectives_is_not_time_outside_operators(two: Summary) -> None:
    assert two.budget is not None
    total = two.budget.total
    assert (total.compute_ms, total.exposed_communication_ms, total.host_ms.python) == (8, 12, 60)
    assert "collectives take 15 % of the time, and 75 % is outside both them and operators" in two.verdict.headline
    finding = next(one for one in two.findings if one.id == "outside_operators")
    assert "60.0 ms are outside operators (75 %), 52.0 ms of it in roseinfer.join" in finding.sentence


def test_other_ranks_are_no_other_programs(two: Summary, tmp_path: Path) -> None:
    evidence = " ".join(two.verdict.evidence)
    assert "Of 80.0 ms on 2 ranks together, 8.0 ms are in operators, 12.0 ms in collectives" in evidence
    assert "Each of 2 ranks computed with 1 thread on 2 cores, and the first used 0.8 cores on average." in evidence
    alone = " ".join(run(tmp_path / "one", 1).verdict.evidence)
    assert "The run computed with 1 thread on 2 cores, and used 0.8 cores on average, other programs 0.8" in alone


@pytest.mark.parametrize(("ranks", "threads"), [(1, 2), (2, None)])
def test_threads_are_those_of_all_ranks(tmp_path: Path, ranks: int, threads: int | None) -> None:
    advice = " ".join(run(tmp_path / "run", ranks, idle=1.2).verdict.advice)
    assert ("--threads" in advice) == (threads is not None)
    assert threads is None or f"give --threads {threads}" in advice


def test_tables_of_ranks_have_no_columns_of_a_gpu(two: Summary) -> None:
    assert [title for title, _ in rank_sheet(two).columns] == ["Rank", "Step", "Wait", "Transfer", "Caused %"]
    by_device = budget_sheets(two.budget, two.devices)[-1]
    assert by_device.columns[0][0] == "Rank"
    assert [row[0] for row in by_device.rows] == ["0", "1"]
