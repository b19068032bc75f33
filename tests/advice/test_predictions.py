"""Predictions are kept, read back, judged and scored."""

from pathlib import Path

import msgspec
import pytest

from roseinfer.advice.paired_gains import Outcome
from roseinfer.advice.prediction_scores import score_card
from roseinfer.advice.predictions import FILE, Prediction, add_predictions, exceeds, predictions_below, read_predictions
from roseinfer.cli.rendering.advice_sheets import fault_line, score_sheets, verdict_on
from roseinfer.errors import RoseinferError, UsageError


def prediction(
    saves: float,
    outcome: Outcome = "helped",
    *,
    bound: float | None = 50.0,
    rule: str = "host_work",
    lever: str = "overlap",
) -> Prediction:
    return Prediction(
        finding=f"{rule}|roseinfer.step",
        rule=rule,
        lever=lever,
        change="--overlap",
        source="try",
        bound_percent=bound,
        saves_percent=saves,
        noise_percent=2.0,
        outcome=outcome,
        above_bound=exceeds(bound, saves, 2.0),
        device="CPU",
        model="tiny",
        measured_at="2026-01-01T00:00:00Z",
    )


def test_predictions_are_appended_and_read_over_many_runs(tmp_path: Path) -> None:
    for run in ("a", "b/c"):
        (tmp_path / run).mkdir(parents=True)
    first, second, third = prediction(10), prediction(-5, "slower"), prediction(1, "no clear change")
    add_predictions(tmp_path / "a", [first])
    add_predictions(tmp_path / "a", [second])
    add_predictions(tmp_path / "b" / "c", [third])
    (tmp_path / "latest").symlink_to("a")
    assert read_predictions(tmp_path / "a" / FILE) == [first, second]
    assert predictions_below(tmp_path) == [first, second, third]


def test_files_that_hold_no_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no predictions\.json"):
        predictions_below(tmp_path)
    with pytest.raises(UsageError, match="takes a folder"):
        predictions_below(tmp_path / "none")
    add_predictions(tmp_path, [])
    assert predictions_below(tmp_path) == [], "the budget ended before anything was measured"
    assert score_card([]).total.tried == 0
    path = tmp_path / FILE
    path.write_text("[]")
    with pytest.raises(RoseinferError, match="is no list of predictions"):
        read_predictions(path)
    path.write_text('{"schema_version": 99}')
    with pytest.raises(RoseinferError, match="schema version 99"):
        add_predictions(tmp_path, [prediction(1)])
    assert path.read_text() == '{"schema_version": 99}'


@pytest.mark.parametrize(
    ("bound", "saves", "noise", "is_above"),
    [(50, 40, 1, False), (50, 51, 2, False), (50, 53, 2, True), (50, 51, None, True), (None, 99, 0, False)],
)
def test_a_saving_is_above_its_bound_if_its_noise_does_not_reach_it(
    bound: float | None, saves: float, noise: float | None, is_above: bool
) -> None:
    assert exceeds(bound, saves, noise) == is_above


def test_scores_are_shares_and_means_by_rule_and_setting() -> None:
    card = score_card(
        [
            prediction(40),
            prediction(20, bound=None),
            prediction(0, "no clear change"),
            prediction(-9, "slower", rule="slow_kernels", lever="compile"),
            prediction(60),
        ]
    )
    host, kernels = card.rules
    assert (host.kind, host.tried, host.helped, host.helped_percent) == ("host_work", 4, 3, 75.0)
    assert host.mean_saves_percent == 40
    assert host.of_bound_percent == 100  # the mean of 80 % and 120 %
    assert (kernels.helped, kernels.slower, kernels.mean_saves_percent, kernels.of_bound_percent) == (0, 1, None, None)
    assert [(each.kind, each.tried) for each in card.levers] == [("overlap", 4), ("compile", 1)]
    assert (card.total.tried, card.total.helped, card.total.above_bound) == (5, 3, 1)
    assert card.faults == [prediction(60)]
    assert all(len(row) == len(sheet.columns) for sheet in score_sheets(card) for row in sheet.rows)


def test_a_saving_above_its_bound_is_reported_as_a_fault_with_the_numbers() -> None:
    assert verdict_on(prediction(60)) == "above its bound"
    text = fault_line(prediction(60))
    assert text.startswith("Fault of the analysis: --overlap saves 60.0 % +- 2.0, above the bound of 50.0 %")
    assert verdict_on(prediction(40)) == "helped"
    assert verdict_on(prediction(-9, "slower")) == "slower"


def test_predictions_are_the_same_after_a_round_trip() -> None:
    assert msgspec.json.decode(msgspec.json.encode(prediction(3)), type=Prediction) == prediction(3)
