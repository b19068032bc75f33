"""What `summarize --try` says below its table."""

from typing import Any

import msgspec
import pytest

from roseinfer.advice.predictions import Prediction
from roseinfer.advice.tried_advice import Combination, TryReport, UntriedAdvice
from roseinfer.cli.rendering.advice_sheets import report_lines, tried_sheet

PREDICTION = Prediction(
    finding="host_work|roseinfer.step",
    rule="host_work",
    lever="overlap",
    change="--overlap",
    source="try",
    bound_percent=30.0,
    saves_percent=20.0,
    noise_percent=2.0,
    outcome="helped",
    above_bound=False,
    device="CPU",
    model="tiny",
    measured_at="2026-01-01T00:00:00Z",
)
TOGETHER = Combination(
    options="--overlap",
    settings={"overlap": True},
    saves_percent=20.0,
    noise_percent=2.0,
    speedup=1.25,
    rounds=5,
    is_chained=False,
)


def report(**fields: Any) -> TryReport:
    usual: dict[str, Any] = {
        "run_dir": "run",
        "device": "CPU",
        "model": "tiny",
        "measured": "pass",
        "budget_s": 120.0,
        "took_s": 60.0,
        "is_complete": True,
        "is_interrupted": False,
        "failure": None,
        "control_percent": 1.0,
        "predictions": [PREDICTION],
        "untried": [],
        "combined": TOGETHER,
        "reduced": None,
        "config": "run/fastest.toml",
        "command": "roseinfer bench",
    }
    return TryReport(**usual | fields)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "Fastest: --overlap saves 20.0 % +- 2.0 (1.25x)."),
        (
            {"combined": None, "predictions": [msgspec.structs.replace(PREDICTION, outcome="no clear change")]},
            "Nothing helped clearly: the settings of the run stay.",
        ),
        ({"combined": None}, "What helped did not do so again in fresh processes: the settings of the run stay."),
        ({"combined": None, "reduced": TOGETHER}, "Nothing that keeps the precision of numbers helped clearly: the"),
        (
            {"combined": msgspec.structs.replace(TOGETHER, is_chained=True)},
            "Fastest: --overlap saves 20.0 % +- 2.0 (1.25x), as the product of its steps.",
        ),
        (
            {"is_complete": False, "failure": "it ended with code 1"},
            "The search ended early, since an engine failed that others were compared with: it ended with code 1.",
        ),
        ({"combined": None, "predictions": []}, "Nothing was measured often enough to be judged."),
        (
            {"is_interrupted": True, "is_complete": False},
            "The search was interrupted: it had more to measure.",
        ),
        ({"is_complete": False}, "The budget of 120 s ended the search: --budget gives it more."),
        ({"control_percent": 40.0}, "Two processes with the run's own settings differ by 40.0 %: other programs use"),
        ({"reduced": TOGETHER}, "With reduced precision, which changes texts: --overlap saves 20.0 %"),
        (
            {"untried": [UntriedAdvice(finding="x", change="--compile", reason="the budget ended")]},
            "Not measured: --compile, because the budget ended.",
        ),
        (
            {"predictions": [msgspec.structs.replace(PREDICTION, saves_percent=40.0, above_bound=True)]},
            "Fault of the analysis: --overlap saves 40.0 % +- 2.0, above the bound of 30.0 %",
        ),
    ],
)
def test_a_report_says_what_was_found_and_what_was_not(fields: dict[str, Any], line: str) -> None:
    assert [one for one in report_lines(report(**fields)) if one.startswith(line)]


def test_the_table_has_bound_saving_and_verdict_of_each_change() -> None:
    [row] = tried_sheet(report()).rows
    assert row == ["host_work|roseinfer.step", "--overlap", "30.0", "20.0", "2.0", "helped"]
    unbounded = msgspec.structs.replace(PREDICTION, bound_percent=None, outcome="no clear change")
    assert tried_sheet(report(predictions=[unbounded])).rows[0][2::3] == ["", "no clear change"]
