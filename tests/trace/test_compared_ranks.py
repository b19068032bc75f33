"""Comparisons of runs of several ranks: spans that one rank has, and work that is not the same."""

from pathlib import Path
from typing import Any

import pytest
from rank_traces import Job, Rank, job, led_job

from roseinfer.cli.rendering.comparison_sheets import comparison_sheets
from roseinfer.cli.rendering.rank_sheets import rank_sheet
from roseinfer.trace import compare, summarize_trace
from roseinfer.trace.summary.comparison_structs import TraceComparison

COMPUTE, HOST = [4000.0] * 4, [400.0] * 4


def compared(folder: Path, old: Job, new: Job) -> TraceComparison:
    found = compare(summarize_trace(new.write(folder / "new")), summarize_trace(old.write(folder / "old"))).comparison
    assert found is not None
    return found


def of_tokens(made: Job, tokens: int) -> Job:
    """Return a job whose steps have another number of requests and tokens."""

    def named(event: dict[str, Any]) -> dict[str, Any]:
        return event | {"name": event["name"].replace("bs=4 tokens=4", f"bs={tokens} tokens={tokens}")}

    ranks = {rank: Rank(rank) for rank in made.ranks}
    for rank, one in made.ranks.items():
        ranks[rank].events = [named(event) for event in one.events]
    return made._replace(ranks=ranks)


def test_a_span_costs_what_it_takes_on_the_ranks_that_have_it(tmp_path: Path) -> None:
    """All ranks but the first prepare inputs, for equally long: one of two, then three of four."""
    found = compared(tmp_path, led_job(COMPUTE, HOST, ranks=2), led_job(COMPUTE, HOST, ranks=4))
    row = next(row for row in found.spans if row.name == "roseinfer.prepare_inputs")
    assert row.baseline == row.new > 0.3
    assert row.change_percent == 0


@pytest.mark.parametrize(("tokens", "is_shown"), [(4, True), (8, True), (16, False), (24, False)])
def test_a_speed_up_is_of_steps_of_the_same_work(tmp_path: Path, tokens: int, is_shown: bool) -> None:
    """Four ranks run steps of 4 tokens each; two ranks with steps of 8 have as many in all."""
    found = compared(tmp_path, of_tokens(led_job(COMPUTE, HOST), tokens), led_job(COMPUTE, HOST, ranks=4))
    assert (found.scaling is not None) == is_shown


def test_budgets_say_that_they_are_per_step_beside_times_per_token(tmp_path: Path) -> None:
    old, new = led_job(COMPUTE, HOST), led_job(COMPUTE, HOST, ranks=4)
    titles = [sheet.title for sheet in comparison_sheets(compared(tmp_path, of_tokens(old, 24), new), 5)]
    assert "Time budget of decode, before and after, per step" in titles
    titles = [sheet.title for sheet in comparison_sheets(compared(tmp_path, old, new), 5)]
    assert "Time budget of decode, before and after" in titles
    assert "Compared with the baseline, per step, timed from the end of the step before" in titles


def test_times_that_changed_by_less_than_is_shown_have_no_row_and_no_percent(tmp_path: Path) -> None:
    """The kernel changes by 0.3 us per step, which the table of GPU times would show as 0."""
    old, new = led_job([4.0] * 4, HOST), led_job([4.3] * 4, HOST)
    found = compared(tmp_path, old, new)
    assert next(row for row in found.work if row.name == "matmul").verdict == "slower"
    rows = {row[0] for sheet in comparison_sheets(found, 5) if sheet.title.startswith("GPU time") for row in sheet.rows}
    assert "matmul" not in rows


def test_the_verdict_says_that_its_share_of_communication_has_no_waits(tmp_path: Path) -> None:
    """Each rank waits 0.4 ms in every second step, and transfers 1.25 ms in each."""
    steps = [[7000, 7400], [7400, 7000]] * 3
    found = summarize_trace(job(steps, transfer_us=1250).write(tmp_path / "job"))
    assert found.budget is not None
    assert "exposed communication other than waits, 14." in found.verdict.headline
    assert " on 2 GPUs together, the GPU computes for " in found.verdict.evidence[0]
    share = 100 * found.budget.total.exposed_communication_ms / found.budget.total.wall_ms
    assert share == pytest.approx(16.7, abs=0.2)


def test_the_table_of_ranks_says_whom_the_others_wait_for(tmp_path: Path) -> None:
    """The others wait 1 ms for rank 0 in one of four steps, and 0.5 ms for rank 2 in one."""
    steps = [[5000, 4000, 4000], [4000, 4000, 4500], [4000, 4000, 4000], [4000, 4000, 4000]]
    found = summarize_trace(job(steps).write(tmp_path / "job"))
    table = rank_sheet(found)
    assert [title for title, _ in table.columns][-3:] == ["Wait", "Transfer", "Caused %"]
    assert [row[-1] for row in table.rows] == ["67", "0", "33"]
    assert [row.caused_percent for row in found.ranks] == pytest.approx([66.67, 0.0, 33.33], abs=0.01)
