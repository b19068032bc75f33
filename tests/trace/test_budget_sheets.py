"""The time budget is the first table: parts with ms per step and percent, for each phase and the whole recording."""

import io
from typing import Any

import msgspec
import pytest
from budgets import COMPUTE_BOUND, HOST_BOUND, budget, parts
from rich.console import Console
from traces import TUTORIAL

from roseinfer.cli.rendering.budget_sheets import PARTS, NamedBudget, budget_sheets
from roseinfer.cli.rendering.markdown import to_markdown
from roseinfer.cli.rendering.sheets import all_sheets
from roseinfer.cli.rendering.terminal import print_summary, sheet_table
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.summary.budget_structs import TimeBudget


@pytest.fixture(scope="module")
def summary() -> Summary:
    return msgspec.structs.replace(summarize_trace(TUTORIAL), budget=budget())


def _text(sheet: Any, width: int) -> str:
    out = io.StringIO()
    Console(width=width, file=out).print(sheet_table(sheet, width))
    return out.getvalue()


def test_the_parts_add_up_to_the_wall_time() -> None:
    for values in (HOST_BOUND, COMPUTE_BOUND):
        made = TimeBudget(**parts(values))  # type: ignore[arg-type]
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


def test_parts_that_no_budget_has_are_left_out() -> None:
    zero = msgspec.structs.replace(budget(phases=()), total=TimeBudget(**parts(COMPUTE_BOUND)))  # type: ignore[arg-type]
    [sheet] = budget_sheets(zero, [])
    assert "host: data loading" not in [row[0] for row in sheet.rows]
    assert "host: Python" in [row[0] for row in sheet.rows]


def test_several_devices_have_a_row_each() -> None:
    parted, by_device = budget_sheets(budget(3), [])
    assert "added up over 3 devices" in parted.title
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
    nothing = msgspec.structs.replace(budget(), total=TimeBudget(**parts((0,) * 11)))  # type: ignore[arg-type]
    assert budget_sheets(nothing, []) == []
    assert budget_sheets(None, []) == []
