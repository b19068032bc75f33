"""The time budget is the first table: parts with ms per step and percent, for each phase and the whole recording."""

import io
from typing import Any

import msgspec
import pytest
from budgets import COMPUTE_BOUND, HOST_BOUND, budget, parts
from rich.console import Console
from traces import TUTORIAL

from roseinfer.cli.rendering.budget_sheets import PARTS, NamedBudget, budget_sheets
from roseinfer.cli.rendering.html_page import to_html
from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.cli.rendering.recording_context import remarks
from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.cli.rendering.table_sheet import milliseconds
from roseinfer.cli.rendering.terminal import print_summary, sheet_table
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.budget_structs import PhaseBudget, StepBudget, TimeBudget
from roseinfer.trace.summary.completeness_structs import MissingRecords
from roseinfer.trace.summary.trace_summary import Trust


@pytest.fixture(scope="module")
def summary() -> Summary:
    return msgspec.structs.replace(summarize_trace(TUTORIAL), budget=budget())


def _text(sheet: Any, width: int) -> str:
    out = io.StringIO()
    Console(width=width, file=out).print(sheet_table(sheet, width))
    return out.getvalue()


def test_the_parts_add_up_to_the_wall_time() -> None:
    for values in (HOST_BOUND, COMPUTE_BOUND):
        made = TimeBudget(**parts(values))
        one = NamedBudget("decode", made, 3)
        assert sum(part.ms(made) for part in PARTS) == pytest.approx(made.wall_ms)
        assert sum(one.percent(part) for part in PARTS) == pytest.approx(100)
        assert sum(one.ms(part) for part in PARTS) == pytest.approx(one.wall_ms) == pytest.approx(sum(values) / 3)


def test_a_row_per_part_and_two_columns_per_phase() -> None:
    [sheet] = budget_sheets(budget(), [])
    titles = [title for title, _ in sheet.without_bars().columns]
    assert titles == ["Part", "decode ms", "%", "prefill ms", "%", "all ms", "%"]
    rows = {row[0]: row[1:7] for row in sheet.rows}
    assert rows["host: Python"] == ["26.10", "38.0", "0.500", "6.4", "52.20", "38.0"]
    assert rows["wall time"] == ["68.75", "100.0", "7.80", "100.0", "137.5", "100.0"]
    assert next(iter(rows)) == "compute"


def test_the_time_of_a_step_is_that_on_one_device() -> None:
    made = budget(3)
    step = {"step": 0, "phase": "decode", "rank": 0}
    steps = [StepBudget(device=one, **step, **parts(HOST_BOUND)) for one in range(3)]
    sums = PhaseBudget(steps=1, **parts(tuple(3 * value for value in HOST_BOUND)))
    made = msgspec.structs.replace(made, phases={"decode": sums}, steps=steps)
    rows = {row[0]: row for row in budget_sheets(made, [])[0].rows}
    assert rows["wall time"][1] == milliseconds(sum(HOST_BOUND))


def test_places_of_idle_time_and_of_exposed_work_are_listed() -> None:
    summary = summarize_trace(TUTORIAL)
    assert summary.budget
    sheets = {sheet.title: sheet for sheet in all_sheets(summary, 5, "self")}
    idle = sheets["Causes of idle time"]
    assert len(idle.rows) == 5
    assert idle.rows[0][3] == milliseconds(summary.budget.idle[0].ms)
    exposed = sheets["Exposed communication and copies"]
    assert sum(float(row[4]) for row in exposed.rows) == pytest.approx(summary.budget.total.exposed_copy_ms, rel=0.1)


def test_findings_are_listed_with_their_place_and_bound() -> None:
    summary = summarize_trace(TUTORIAL)
    [sheet] = [sheet for sheet in all_sheets(summary, 5, "self") if sheet.title.startswith("Findings")]
    first = summary.findings[0]
    assert len(sheet.rows) == len(summary.findings)
    assert sheet.rows[0] == [
        first.id.replace("_", " "),
        first.where.span,
        f"{first.share_percent:.1f}",
        milliseconds(first.saves_ms),
    ]


def test_missing_records_are_told_once() -> None:
    summary = summarize_trace(TUTORIAL)
    lost = [
        MissingRecords(kind="gpu_tail", what=f"the end of {name}", count=9, from_ms=1.5, to_ms=None, decisive=True)
        for name in ("x", "y")
    ]
    found = msgspec.structs.replace(summary.completeness, complete=False, missing=lost)
    doubts = [Trust("warning", "the end of x is lost")]
    made = msgspec.structs.replace(summary, completeness=found, trust=doubts)
    assert remarks(made) == [("warning", "the end of x is lost"), ("missing", "the end of y")]
    assert "> - missing: the end of y" in to_markdown(made)
    assert "missing: the end of y" in to_html(made)


def test_parts_that_no_budget_has_are_left_out() -> None:
    zero = msgspec.structs.replace(budget(phases=()), total=TimeBudget(**parts(COMPUTE_BOUND)))
    [sheet] = budget_sheets(zero, [])
    assert "host: data loading" not in [row[0] for row in sheet.rows]
    assert "host: Python" in [row[0] for row in sheet.rows]


def test_several_devices_have_a_row_each() -> None:
    parted, by_device = budget_sheets(budget(3), [])
    assert parted.title == "Time budget per step and device, and of all 3 devices"
    assert [row[0] for row in by_device.rows] == ["0", "1", "2"]
    assert by_device.rows[0][1:] == ["137.5", "9.1", "2.3", "0.3", "81.2", "7.1", "0.1"]


def test_many_phases_are_split_into_tables_that_fit_in_80_columns() -> None:
    sheets = budget_sheets(budget(phases=("decode", "prefill", "mixed", "target_verify", "draft_extend")), [])
    assert len(sheets) > 1
    for sheet in sheets:
        text = _text(sheet, 80)
        assert all(cell in text for row in sheet.without_bars().rows for cell in row)
        assert "…" not in text


def test_the_terminal_draws_bars_where_there_is_room() -> None:
    [sheet] = budget_sheets(budget(phases=("decode",)), [])
    assert "█" not in _text(sheet, 64)
    bars = {line.split("  ")[0].strip(): line.count("█") for line in _text(sheet, 100).splitlines()}
    assert bars["host: Python"] == round(0.38 * 30)
    assert bars["wall time"] == 0


def test_the_budget_is_the_first_table_everywhere(summary: Summary) -> None:
    assert all_sheets(summary, 5, "self")[0].title.startswith("Time budget")
    out = io.StringIO()
    print_summary(Console(width=100, file=out), summary)
    first_table = next(line for line in to_markdown(summary).splitlines() if line.startswith("|"))
    assert first_table.startswith("| Part | decode ms | % |")
    assert out.getvalue().index("Time budget") < out.getvalue().index("Steps by phase")


def test_an_empty_budget_has_no_table() -> None:
    nothing = msgspec.structs.replace(budget(), total=TimeBudget(**parts((0,) * 11)))
    assert budget_sheets(nothing, []) == []
    assert budget_sheets(None, []) == []
