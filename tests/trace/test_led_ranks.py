"""Ranks whose hosts run ahead to different degrees take one step together, which is timed on the device."""

from pathlib import Path

import pytest
from rank_traces import ALL_REDUCE, Job, job, led_job

from roseinfer.cli.rendering.rank_sheets import rank_sheet
from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.summary.step_structs import PhaseSummary

COMPUTE = [9000.0, 9020.0, 9010.0, 9030.0, 9020.0, 9040.0, 9030.0, 9050.0]
HOST = [400.0] * 8


def summary_of(made: Job, folder: Path) -> Summary:
    return summarize_trace(made.write(folder))


def decode(summary: Summary) -> PhaseSummary:
    return summary.steps.phases["decode"]


def test_a_step_of_several_ranks_is_one_step_that_lasts_as_long_as_on_the_device(tmp_path: Path) -> None:
    """Spans last 9.5 ms on rank 0, but 40 us for its first one, and 0.4 ms on the others."""
    summary = summary_of(led_job(COMPUTE, HOST, ranks=4), tmp_path / "job")
    row = decode(summary)
    assert (summary.steps.count, summary.steps.rank_steps, row.count, row.rank_steps) == (8, 32, 8, 32)
    assert (row.timed_by, row.median_ms) == ("wall", pytest.approx(9.475, abs=0.02))
    assert row.p90_ms == pytest.approx(9.5, abs=0.02)
    assert row.std_ms < 0.2
    assert summary.steps.outliers == []
    assert row.gpu_events_per_step == 2
    titles = [sheet.title for sheet in all_sheets(summary, 5, "self")]
    assert "Steps by phase, from roseinfer.step spans, timed on the device" in titles


def test_the_table_of_ranks_has_the_times_of_steps_and_no_skew_of_spans(tmp_path: Path) -> None:
    summary = summary_of(led_job(COMPUTE, HOST), tmp_path / "job")
    assert [row.median_step_ms for row in summary.ranks] == pytest.approx([9.475, 9.475], abs=0.01)
    assert rank_sheet(summary).title == "Ranks, ms, skew of the median step 5.0 us"
    assert [row.ahead_percent for row in summary.ranks] == [100.0, 0.0]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_difference_between_ranks_and_the_fill_of_the_pipeline_are_no_noise(tmp_path: Path, ranks: int) -> None:
    old = summary_of(led_job(COMPUTE, HOST), tmp_path / "old")
    new = summary_of(led_job([0.6 * us for us in COMPUTE], HOST, ranks=ranks), tmp_path / "new")
    found = compare(new, old).comparison
    assert found is not None
    (phase,) = found.phases
    assert (phase.verdict, phase.timed_by) == ("faster", "wall")
    assert phase.noise_percent is not None
    assert phase.noise_percent < 2
    assert "as fast as before" not in found.headline
    same = compare(old, old).comparison
    assert same is not None
    assert same.phases[0].verdict == "no clear change"


def test_work_that_one_rank_has_and_another_has_not_is_no_noise(tmp_path: Path) -> None:
    """Rank 0 always waits 0.4 ms longer in its collective."""
    summary = summary_of(led_job(COMPUTE, HOST), tmp_path / "job")
    cost = summary.phase_costs["decode"].categories["communication"]
    assert cost.ms == pytest.approx((450 + 50) / 2000)
    assert cost.std_ms < 0.001


def test_time_in_which_no_rank_has_begun_a_step_is_in_no_step(tmp_path: Path) -> None:
    """After four steps, no request is there for half a second."""
    made = led_job(COMPUTE[:4], HOST[:4])
    end = max(one.now for one in made.ranks.values())
    for one in made.ranks.values():
        for event in list(one.events):
            args = {key: value + 1000 if key == "correlation" else value for key, value in event["args"].items()}
            one.events.append(event | {"ts": event["ts"] + end + 500_000, "args": args})
    summary = summary_of(made, tmp_path / "job")
    assert summary.steps.count == 8
    assert summary.steps.outliers == []
    assert decode(summary).p90_ms < 10


def test_work_of_a_step_before_the_recording_is_not_the_first_steps(tmp_path: Path) -> None:
    """The recording begins with the third step, whose launch is in it, while the second one still runs."""
    made = led_job(COMPUTE, HOST, ranks=1)
    events = made.ranks[0].events
    begin = [event["ts"] for event in events if event["name"].startswith("roseinfer.step")][2]
    events[:] = [
        event for event in events if event["ts"] >= begin and event["args"].get("correlation", 5) not in (1, 2, 3, 4)
    ]
    row = decode(summary_of(made, tmp_path / "job"))
    assert (row.count, row.timed_by) == (6, "wall")
    assert (row.median_ms, row.p90_ms) == pytest.approx((9.08, 9.1), abs=0.01)
    assert row.std_ms < 0.1


def test_steps_of_ranks_that_share_no_collectives_are_steps_of_their_own(tmp_path: Path) -> None:
    made = led_job(COMPUTE, HOST)
    for one in made.ranks.values():
        one.events[:] = [event for event in one.events if not event["name"].startswith("nccl")]
    summary = summary_of(made, tmp_path / "job")
    assert (summary.steps.count, summary.steps.rank_steps) == (16, 16)


def test_a_step_is_the_same_on_a_rank_whose_recording_began_a_step_later(tmp_path: Path) -> None:
    """Matched collectives tell which steps belong together, not their numbers on each rank."""
    made = led_job(COMPUTE, HOST)
    for one in made.ranks.values():
        one.run(50, ALL_REDUCE, at=one.now + 1000)  # after all steps, so that the ends of collectives match them
    late = made.ranks[1].events
    begin = [event["ts"] for event in late if event["name"].startswith("roseinfer.step")][1]
    late[:] = [event for event in late if event["ts"] >= begin]
    summary = summary_of(made, tmp_path / "job")
    assert (summary.steps.count, summary.steps.rank_steps) == (8, 15)
    assert summary.job is not None
    assert [one.step for one in summary.job.steps] == list(range(8))
    assert [one.wait_ms for one in summary.job.steps] == pytest.approx([0.0, *[0.2] * 7], abs=0.001)
    assert summary.budget is not None
    assert [row.step for row in summary.budget.steps if row.rank == 1] == list(range(1, 8))


def test_training_ranks_that_wait_for_each_other_are_timed_by_their_spans(tmp_path: Path) -> None:
    summary = summary_of(job([[9000, 5000, 5000, 5000]] * 5), tmp_path / "job")
    row = summary.steps.phases["step"]
    assert (row.count, row.rank_steps, row.timed_by) == (5, 20, "span")
    assert row.median_ms == pytest.approx(10.258)
    assert [one.median_step_ms for one in summary.ranks] == pytest.approx([10.258] * 4)
