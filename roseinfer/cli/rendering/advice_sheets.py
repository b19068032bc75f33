"""Tables of advice that was tried, and of how good advice was."""

from roseinfer.advice.prediction_scores import Score, ScoreCard
from roseinfer.advice.predictions import Prediction
from roseinfer.advice.tried_advice import Combination, TryReport
from roseinfer.cli.rendering.table_sheet import Sheet, sheet

_NOISY_PERCENT = 10.0
"""Difference of equal engines from which the report says that the machine is noisy."""


def tried_sheet(report: TryReport) -> Sheet:
    """Return the advice that was measured: its bound, the saving, and the verdict on the prediction."""
    rows = [
        [
            each.finding,
            each.change,
            _number(each.bound_percent),
            f"{each.saves_percent:.1f}",
            _number(each.noise_percent),
            verdict_on(each),
        ]
        for each in report.predictions
    ]
    columns = ("*Finding", "-Change", "Bound %", "Saves %", "+-", "-Verdict")
    return sheet("Advice that was tried (shares of the time per token)", columns, rows)


def verdict_on(prediction: Prediction) -> str:
    """Return the verdict on a prediction in a few words."""
    if prediction.above_bound:
        return "above its bound"
    return "helped" if prediction.outcome == "helped" else prediction.outcome


def report_lines(report: TryReport) -> list[str]:
    """Return the sentences below the table of a report: faults, the combination, and the command line to use."""
    lines = [fault_line(each) for each in report.predictions if each.above_bound]
    lines += [f"Not measured: {each.change}, because {each.reason}." for each in report.untried]
    if report.control_percent:
        differ = f"differ by {report.control_percent:.1f} %{_noisy(report)}"
        lines.append(f"Two processes with the run's own settings {differ}.")
    if report.is_interrupted:
        lines.append("The search was interrupted: it had more to measure.")
    elif report.failure is not None:
        lines.append(
            f"The search ended early, since an engine failed that others were compared with: {report.failure}."
        )
    elif not report.is_complete:
        lines.append(f"The budget of {report.budget_s:g} s ended the search: --budget gives it more.")
    if not report.predictions:
        lines.append("Nothing was measured often enough to be judged.")
    elif report.combined is None:
        lines.append(f"{_nothing(report)}: the settings of the run stay.")
    if report.combined is not None:
        lines.append(f"Fastest: {_combined(report.combined)}.")
    if report.reduced is not None:
        lines.append(f"With reduced precision, which changes texts: {_combined(report.reduced)}.")
    return lines


def _noisy(report: TryReport) -> str:
    is_noisy = report.control_percent > _NOISY_PERCENT
    return ": other programs use the machine, and only large gains can be told from noise" if is_noisy else ""


def _nothing(report: TryReport) -> str:
    if report.reduced is not None:
        return "Nothing that keeps the precision of numbers helped clearly"
    if any(each.outcome == "helped" for each in report.predictions):
        return "What helped did not do so again in fresh processes"
    return "Nothing helped clearly"


def fault_line(prediction: Prediction) -> str:
    """Return the sentence that reports a measured saving above its bound."""
    noise = "" if prediction.noise_percent is None else f" +- {prediction.noise_percent:.1f}"
    return (
        f"Fault of the analysis: {prediction.change} saves {prediction.saves_percent:.1f} %{noise}, above the bound of "
        f"{prediction.bound_percent or 0:.1f} % for {prediction.finding}."
    )


def _combined(combination: Combination) -> str:
    by_steps = ", as the product of its steps" if combination.is_chained else ""
    return (
        f"{combination.options} saves {combination.saves_percent:.1f} % +- {combination.noise_percent:.1f} "
        f"({combination.speedup:.2f}x){by_steps}"
    )


def score_sheets(card: ScoreCard) -> list[Sheet]:
    """Return the scores of advice: by finding, and by setting."""
    return [
        _score_sheet("Scores by finding", "*Finding", [*card.rules, card.total]),
        _score_sheet("Scores by setting", "*Setting", card.levers),
    ]


def _score_sheet(title: str, first: str, scores: list[Score]) -> Sheet:
    rows = [
        [
            score.kind,
            f"{score.tried}",
            f"{score.helped}",
            f"{score.helped_percent:.0f}",
            f"{score.slower}",
            _number(score.mean_saves_percent),
            _number(score.of_bound_percent),
            f"{score.above_bound}",
        ]
        for score in scores
    ]
    columns = (first, "Tried", "Helped", "%", "Slower", "Saves %", "Of bound %", "Above bound")
    return sheet(title, columns, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
