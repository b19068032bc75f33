"""Figures of a phase whose launches compute different amounts of work compare steps of the same work."""

from pathlib import Path

import pytest
from unequal_launches import LONG, SHORT, Launch, recording, write_manifest

from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.trace.comparing.trace_comparison import compare
from roseinfer.trace.pipeline import summarize_trace
from roseinfer.trace.summary.comparison_structs import TraceComparison
from roseinfer.trace.summary.trace_summary import Summary

MIXED = [LONG, LONG, SHORT, SHORT, SHORT]


def compared(folder: Path, old: list[Launch], new: list[Launch], *, factor: float = 1.0) -> TraceComparison:
    """Return the comparison of two recordings of launches; the newer ones take `factor` times their time."""
    baseline = summarize_trace(recording(folder / "old.json", old))
    found = compare(summarize_trace(recording(folder / "new.json", new, factor=factor)), baseline).comparison
    assert found is not None
    return found


def profiled(summary: Summary) -> list[str]:
    """Return the notes that say how much the profiler slowed the steps."""
    return [note.message for note in summary.trust if note.message.startswith("Profiling made")]


def test_time_and_floor_of_the_roofline_are_of_the_same_steps(tmp_path: Path) -> None:
    path = recording(tmp_path / "t.json", MIXED)
    write_manifest(tmp_path, MIXED, floor=0.5)
    found = summarize_trace(path)
    assert found.roofline is not None
    decode = found.roofline.phases["decode"]
    assert (found.roofline.source, decode.steps) == ("baseline", 5)
    assert (decode.median_ms, decode.floor_ms, decode.mbu_percent) == (7.0, 3.5, 50.0)
    assert decode.traced_ms == pytest.approx(7.0, rel=0.01)
    assert profiled(found) == []


def test_work_that_only_the_recording_has_does_not_count_for_the_roofline(tmp_path: Path) -> None:
    path = recording(tmp_path / "t.json", MIXED)
    write_manifest(tmp_path, MIXED, floor=0.5, unprofiled=[LONG])
    found = summarize_trace(path).roofline
    assert found is not None
    decode = found.phases["decode"]
    assert (decode.steps, decode.median_ms, decode.floor_ms, decode.mbu_percent) == (2, 16.0, 8.0, 50.0)


def test_a_phase_whose_work_the_unprofiled_pass_lacks_is_shown_with_the_work_of_that_pass(tmp_path: Path) -> None:
    other = Launch(8, 8, 2_000)
    path = recording(tmp_path / "t.json", [other] * 3)
    write_manifest(tmp_path, [other] * 3, floor=0.5, unprofiled=MIXED)
    found = summarize_trace(path)
    assert found.roofline is not None
    assert found.roofline.phases["decode"].mbu_percent == 50.0
    assert found.roofline.phases["decode"].traced_ms is None
    assert profiled(found) == []


@pytest.mark.parametrize("median_ms", [1.0, 16.0])
def test_older_manifests_with_one_time_for_unequal_launches_take_times_of_the_trace(
    tmp_path: Path, median_ms: float
) -> None:
    path = recording(tmp_path / "t.json", MIXED)
    write_manifest(tmp_path, MIXED, floor=0.5, median_ms=median_ms)
    found = summarize_trace(path)
    assert found.roofline is not None
    decode = found.roofline.phases["decode"]
    assert found.roofline.source == "trace"
    assert decode.median_ms == pytest.approx(7.0, rel=0.01)
    assert decode.mbu_percent == pytest.approx(50.0, rel=0.01)
    titles = [sheet.title for sheet in all_sheets(found, 5, "self")]
    assert any(title.startswith("Roofline, step times from the trace; ") for title in titles)
    assert profiled(found) == []


def test_the_profilers_slowdown_is_that_of_steps_of_the_same_work(tmp_path: Path) -> None:
    path = recording(tmp_path / "t.json", MIXED, factor=1.5)
    write_manifest(tmp_path, MIXED, floor=0.5)
    assert profiled(summarize_trace(path)) == [
        "Profiling made the decode step 1.5 times as long: 10.5 ms here, 7.0 ms without the profiler. Host times and "
        "idle shares are overstated."
    ]


def test_older_manifests_still_tell_the_slowdown_of_equal_launches(tmp_path: Path) -> None:
    path = recording(tmp_path / "t.json", [LONG] * 3, factor=1.5)
    write_manifest(tmp_path, [LONG] * 3, floor=0.5, median_ms=16.0)
    found = summarize_trace(path)
    assert "1.5 times as long: 24.0 ms here, 16.0 ms without" in profiled(found)[0]
    assert found.roofline is not None
    assert found.roofline.source == "baseline"


@pytest.mark.parametrize(
    "launches",
    [
        [LONG] * 6 + [SHORT] * 3,
        [SHORT] * 6 + [LONG],
        [SHORT, SHORT, SHORT, Launch(3, 3, 990), LONG, Launch(4, 48, 12_000)],
    ],
)
def test_launches_of_other_lengths_are_no_outliers(tmp_path: Path, launches: list[Launch]) -> None:
    assert summarize_trace(recording(tmp_path / "t.json", launches)).steps.outliers == []


def test_a_launch_that_takes_longer_than_others_of_its_length_is_an_outlier(tmp_path: Path) -> None:
    slow = SHORT._replace(us=3_000)
    found = summarize_trace(recording(tmp_path / "t.json", [LONG, SHORT, SHORT, slow, *[SHORT] * 3, LONG, LONG, LONG]))
    assert [(one.step, round(one.times_median, 1)) for one in found.steps.outliers] == [(3, 3.0)]


def test_a_step_is_timed_by_its_own_launch_whatever_the_span_waits_for(tmp_path: Path) -> None:
    """The span of a short step behind a long one lasts as long as the long one."""
    found = summarize_trace(recording(tmp_path / "t.json", [SHORT] * 9 + [LONG] * 4 + [SHORT] * 2))
    assert [round(step.ms) for step in found.steps.times] == [1] * 9 + [16] * 4 + [1] * 2
    assert found.steps.phases["decode"].median_ms == pytest.approx(1.0, rel=0.05)
    assert any("(median: decode 990.0 us later)" in note.message for note in found.trust)


def listed(launches: list[Launch], folder: Path) -> list[list[str]]:
    """Return the rows of the table of steps by their work; empty if it is not shown."""
    sheets = all_sheets(summarize_trace(recording(folder / "t.json", launches)), 5, "self")
    return [row for sheet in sheets if sheet.title.startswith("Steps by requests and tokens") for row in sheet.rows]


def test_launches_of_different_lengths_are_listed_by_requests_and_tokens(tmp_path: Path) -> None:
    assert listed([SHORT, LONG, LONG, LONG, SHORT, SHORT], tmp_path) == [
        ["decode", "4", "64", "3", "16.00", "250.0"],
        ["decode", "4", "4", "3", "1.00", "250.0"],
    ]
    assert listed([LONG, LONG, Launch(4, 60, 15_000)], tmp_path) == []


@pytest.mark.parametrize(("launches", "mean"), [([LONG] * 6 + [SHORT] * 3, ["11.00"]), ([LONG] * 6, [])])
def test_the_mean_step_is_beside_its_mean_gpu_time_if_the_median_is_another(
    tmp_path: Path, launches: list[Launch], mean: list[str]
) -> None:
    sheets = all_sheets(summarize_trace(recording(tmp_path / "t.json", launches)), 5, "self")
    steps = next(sheet for sheet in sheets if sheet.title.startswith("Steps by phase"))
    found = dict(zip([title for title, _ in steps.columns], steps.rows[0], strict=True))
    assert found["Median ms"] == "16.00"
    assert [found[title] for title in found if title == "Mean ms"] == mean


def about(one: Launch, percent: float) -> Launch:
    """Return a launch that takes some percent longer."""
    return one._replace(us=one.us * (1 + percent / 100))


OLD = [about(LONG, 1), about(LONG, -1), LONG, about(SHORT, 1), about(SHORT, -1), SHORT]
OTHER_MIX = [LONG, about(LONG, 1), about(SHORT, -1), SHORT, about(SHORT, 1), SHORT, SHORT, about(SHORT, -1)]


def test_recordings_of_other_mixes_of_launches_compare_launches_of_the_same_length(tmp_path: Path) -> None:
    found = compared(tmp_path, OLD, OTHER_MIX)
    [decode] = found.phases
    assert (decode.verdict, decode.per) == ("no clear change", "step")
    assert decode.change_percent == pytest.approx(0, abs=1.0)
    assert decode.noise_percent is not None
    assert 0.5 < decode.noise_percent < 3
    [kernels] = [row for row in found.work if row.kind == "kernel"]
    assert kernels.verdict == "no clear change"
    [row] = found.kernels
    assert row.change_percent == pytest.approx(0, abs=1.0)
    assert any("the work of a decode step differs" in warning for warning in found.warnings)


@pytest.mark.parametrize("new", [OLD, OTHER_MIX])
def test_a_slowdown_shows_whatever_the_mix_of_launches(tmp_path: Path, new: list[Launch]) -> None:
    found = compared(tmp_path, OLD, new, factor=1.05)
    [decode] = found.phases
    assert decode.verdict == "slower"
    assert decode.change_percent == pytest.approx(5, abs=1.0)
    assert [row.verdict for row in found.work if row.kind in ("category", "kernel")] == ["slower"] * 2


def test_launches_without_common_lengths_are_compared_per_token(tmp_path: Path) -> None:
    [decode] = compared(tmp_path, [SHORT] * 6, [LONG] * 3 + [Launch(3, 6, 1_500)]).phases
    assert (decode.per, decode.verdict) == ("token", "no clear change")
    assert decode.compared_ms == (pytest.approx(0.25, rel=0.01), pytest.approx(0.25, rel=0.01))


def test_launches_that_all_differ_are_compared_pair_by_pair(tmp_path: Path) -> None:
    old = [Launch(4, tokens, 250.0 * tokens) for tokens in (4, 16, 36, 64)]
    [decode] = compared(tmp_path, old, old[::-1], factor=1.03).phases
    assert decode.verdict == "slower"
    assert decode.change_percent == pytest.approx(3, abs=0.5)
    assert decode.noise_percent is not None
    assert decode.noise_percent < 1


def test_a_single_launch_has_the_noise_of_the_other_recordings_launches(tmp_path: Path) -> None:
    noisy = [about(LONG, percent) for percent in (-5, 0, 5)]
    [decode] = compared(tmp_path, noisy, [about(LONG, 6)]).phases
    assert decode.verdict == "no clear change"
    assert decode.noise_percent == pytest.approx(2 * 5 * (1 + 1 / 3) ** 0.5, rel=0.05)
