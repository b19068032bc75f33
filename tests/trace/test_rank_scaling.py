"""Runs of different numbers of ranks are compared: the speed-up, and where the rest went."""

from pathlib import Path

import pytest
from rank_traces import job

from roseinfer.cli.rendering.comparison_sheets import comparison_sheets
from roseinfer.trace import compare, summarize_trace
from roseinfer.trace.summary.comparison_structs import ScalingChange, TraceComparison


def compared(folder: Path, before: list[list[int]], after: list[list[int]], transfer: float = 500) -> TraceComparison:
    old = summarize_trace(job(before, transfer_us=transfer if len(before[0]) > 1 else 1).write(folder / "old"))
    new = summarize_trace(job(after, transfer_us=transfer).write(folder / "new"))
    found = compare(new, old).comparison
    assert found is not None
    return found


def lost(change: ScalingChange) -> dict[str, float]:
    return {row.part: row.lost_ms for row in change.lost}


def test_split_work_loses_time_in_waits_transfer_and_slower_kernels(tmp_path: Path) -> None:
    """One rank computes 8 ms; four ranks 2.2 ms, and one of them 1 ms more."""
    comparison = compared(tmp_path, [[8000]] * 4, [[2200, 2200, 3200, 2200]] * 4)
    change = comparison.scaling
    assert change is not None
    assert (change.ranks_before, change.ranks_after, change.work, change.ideal_speedup) == (1, 4, "split", 4.0)
    parts = lost(change)
    assert parts["wait"] == pytest.approx(0.75, abs=0.02)
    assert parts["transfer"] == pytest.approx(0.5, abs=0.02)
    assert parts["kernels"] == pytest.approx(2.45 - 2.0, abs=0.02)
    assert sum(parts.values()) == pytest.approx(change.new_ms - change.ideal_ms, abs=1e-4)
    assert change.speedup == pytest.approx(8.0 / 3.7, abs=0.05)
    titles = [sheet.title for sheet in comparison_sheets(comparison, 5)]
    assert any(title.startswith("From 1 to 4 ranks, the work split: 2.1") for title in titles)


def test_ranks_with_work_of_their_own_are_measured_by_their_work(tmp_path: Path) -> None:
    change = compared(tmp_path, [[5000, 5000]] * 3, [[5000] * 4] * 3, transfer=1000).scaling
    assert change is not None
    assert (change.work, change.speedup) == ("per_rank", pytest.approx(2.0, abs=0.01))
    assert sum(abs(ms) for ms in lost(change).values()) == pytest.approx(0, abs=0.01)


def test_the_same_number_of_ranks_is_no_scaling(tmp_path: Path) -> None:
    assert compared(tmp_path, [[5000, 5000]] * 3, [[4000, 5000]] * 3).scaling is None
