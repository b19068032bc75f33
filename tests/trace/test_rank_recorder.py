"""Faults planted in a recorded job of two gloo ranks are found, with the times that the ranks measured themselves."""

import json
from pathlib import Path

from benchmarks.ranks_traces import STEPS, record
from roseinfer.trace import summarize_trace


def test_a_planted_straggler_and_small_collectives_are_found_in_a_recording_of_two_ranks(tmp_path: Path) -> None:
    record(tmp_path, "straggler,bucketing", "cpu", 2)
    summary, truth = summarize_trace(tmp_path), json.loads((tmp_path / "truth.json").read_text())
    found = [row for row in summary.collectives if "reduce" in row.name]
    assert [(row.count, row.ranks) for row in found] == [(64 * STEPS, [0, 1])]
    late = summary.job.straggler if summary.job else None
    assert late is not None
    assert late.rank == truth["slow_rank"]
    assert late.wait_ms > 0.7 * truth["late_ms"]  # more on a busy machine, where ranks also wait for a core
