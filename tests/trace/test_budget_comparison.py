"""Comparisons show which part of a step became longer or shorter, in tables, bars and JSON."""

from pathlib import Path

import msgspec
import pytest
from budgets import COMPUTE_BOUND, HOST_BOUND, budget, parts
from traces import TUTORIAL, event, kernel, launch, write

from roseinfer.cli.rendering.budget_bars import bar_key, comparison_bars
from roseinfer.cli.rendering.comparison_sheets import comparison_sheets
from roseinfer.cli.rendering.html_page import to_html
from roseinfer.trace import Summary, compare, summarize_trace
from roseinfer.trace.comparing.budget_changes import budget_changes
from roseinfer.trace.summary.budget_structs import BudgetSummary, PhaseBudget, StepBudget


@pytest.fixture(scope="module")
def summary() -> Summary:
    return summarize_trace(TUTORIAL)


def phased(values: tuple[float, ...], steps: int, devices: int = 1) -> BudgetSummary:
    """Return a budget whose decode steps take `values` on each device."""
    return msgspec.structs.replace(
        budget(devices),
        phases={"decode": PhaseBudget(steps=steps, **parts(tuple(steps * devices * ms for ms in values)))},
        steps=[
            StepBudget(step=step, phase="decode", rank=0, device=device, **parts(values))
            for step in range(steps)
            for device in range(devices)
        ],
    )


def test_the_budgets_are_those_of_a_step_on_one_device() -> None:
    old, new = phased(HOST_BOUND, 5), phased(COMPUTE_BOUND, 3, devices=2)
    [change] = budget_changes(new, old, ["decode", "prefill"], whole=False)
    assert change.phase == "decode"
    assert change.baseline.wall_ms == pytest.approx(sum(HOST_BOUND))
    assert change.new.wall_ms == pytest.approx(sum(COMPUTE_BOUND))
    assert change.new.host_ms.python == pytest.approx(COMPUTE_BOUND[8])


def test_traces_without_steps_compare_whole_recordings() -> None:
    old, new = budget(), budget(2)
    assert budget_changes(new, old, [], whole=True)[0].new == new.total
    assert budget_changes(None, old, [], whole=True) == []


def test_the_table_has_every_part_and_the_wall_time(summary: Summary) -> None:
    both = compare(msgspec.structs.replace(summary, budget=phased(COMPUTE_BOUND, 3)), summary)
    assert both.comparison
    [table] = [one for one in comparison_sheets(both.comparison, 5) if one.title.startswith("Time budget")]
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.title == "Time budget of decode, before and after"
    assert rows["exposed communication"] == ["0.000", "1.00", "+1.00", "new"]
    assert rows["exposed copies"][-1] == "gone"
    before, after = (float(text) for text in rows["wall time"][:2])
    assert sum(float(row[1]) for name, row in rows.items() if name != "wall time") == pytest.approx(after, abs=0.05)
    assert before > after


def test_bars_before_and_after_are_as_long_as_their_steps(summary: Summary) -> None:
    both = compare(msgspec.structs.replace(summary, budget=phased(HOST_BOUND, 3)), summary)
    assert both.comparison
    before, after = comparison_bars(both.comparison.budgets)
    assert after.width == 100
    assert before.width == pytest.approx(100 * both.comparison.budgets[0].baseline.wall_ms / sum(HOST_BOUND), abs=0.01)
    drawn = {part.css for bar in (before, after) for part in bar.parts}
    assert drawn == {css for css, _ in bar_key(None, both.comparison)}
    assert "decode, before" in to_html(both)


def test_an_unchanged_trace_has_no_changes(summary: Summary) -> None:
    comparison = compare(summary, summary).comparison
    assert comparison
    table = next(one for one in comparison_sheets(comparison, 5) if one.title.startswith("Time budget"))
    assert {(row[3], row[4]) for row in table.rows} == {("0", "0.0")}


def test_the_same_kernels_show_as_the_same_compute(tmp_path: Path) -> None:
    def trace(name: str, pause_us: float) -> Summary:
        steps = [event("user_annotation", f"ProfilerStep#{one}", 1000 * one, 990) for one in range(5)]
        work = []
        for one in range(5):
            at = 1000 * one + pause_us
            work += [launch(at, 5, one + 1), kernel(at + 6, 100, one + 1)]
        return summarize_trace(write(tmp_path / name, [*steps, *work]))

    comparison = compare(trace("new.json", 100), trace("old.json", 600)).comparison
    assert comparison
    [change] = comparison.budgets
    assert change.baseline.compute_ms == pytest.approx(change.new.compute_ms)
    assert change.baseline.compute_ms == pytest.approx(0.1, abs=0.01)
