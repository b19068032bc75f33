"""Ranks are shown as tables and lanes, for two ranks and for hundreds."""

from pathlib import Path

import pytest
from rank_traces import job

from roseinfer.cli.rendering.html_page import to_html
from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.cli.rendering.rank_lanes import lane_title, rank_lanes
from roseinfer.cli.rendering.rank_sheets import MAX_RANKS, collective_sheet, rank_sheet, shown_ranks
from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.trace import Summary, summarize_trace


def slow(folder: Path, ranks: int, late: int) -> Summary:
    times = [[900 if rank == late else 500 for rank in range(ranks)]] * 2
    return summarize_trace(job(times, transfer_us=100).write(folder / "job"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return slow(tmp_path_factory.mktemp("few"), 3, 1)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return slow(tmp_path_factory.mktemp("many"), 40, 23)


def test_the_table_of_ranks_has_waits_and_marks_the_straggler(few: Summary) -> None:
    rows = rank_sheet(few).rows
    assert [row[0] for row in rows] == ["0", "1 straggler", "2"]
    assert [row[6:] for row in rows] == [["0.800", "0.200", "0"], ["0.000", "0.200", "100"], ["0.800", "0.200", "0"]]


def test_the_table_of_collectives_has_the_mean_wait_of_a_rank(few: Summary) -> None:
    (row,) = collective_sheet(few, 8).rows
    assert row[1:8] == ["?", "3", "2", "0.200", "0.533", "0.400", "0"]


def test_lanes_split_communication_into_transfer_and_waits(few: Summary) -> None:
    lanes = rank_lanes(few)
    assert [lane.title.split(":")[0] for lane in lanes] == ["rank 0", "rank 1, the straggler", "rank 2"]
    shares = {part.css: part.percent for part in lanes[0].parts}
    assert shares["waiting"] == pytest.approx(4 * shares["communication"], rel=0.01)
    assert "waiting" not in {part.css for part in lanes[1].parts}
    page = to_html(few)
    assert "rank 1, the straggler" in page
    assert 'class="waiting"' in page


def test_of_many_ranks_some_are_shown_with_the_straggler(many: Summary) -> None:
    shown = shown_ranks(many)
    assert len(shown) <= MAX_RANKS
    assert {0, 23, 39} <= set(shown)
    for sheet in all_sheets(many, 15, "self"):
        assert len(sheet.rows) <= 2 * MAX_RANKS, sheet.title
    assert f"Ranks, ms, {len(shown)} of 40" in to_markdown(many)
    assert lane_title(many).startswith(f"Ranks, {len(shown)} of 40")
    assert len(many.ranks) == 40


def test_one_rank_has_no_lanes(tmp_path: Path) -> None:
    summary = summarize_trace(job([[500]] * 2).write(tmp_path / "job"))
    assert rank_lanes(summary) == []
    assert summary.job is None
