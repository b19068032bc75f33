"""How good each kind of advice is, over the predictions of many runs."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from roseinfer.advice.predictions import Prediction

SCHEMA_VERSION = 1


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Predictions of one kind."""

    kind: str
    """Rule of the findings, or the setting that was changed."""
    tried: int
    helped: int
    slower: int
    helped_percent: float
    """Share of the predictions whose change helped."""
    mean_saves_percent: float | None
    """Mean saving of the changes that helped; None if none did."""
    of_bound_percent: float | None
    """Measured saving as a share of its bound, mean over the changes that helped and have a bound; None without any."""
    above_bound: int
    """Predictions whose measured saving exceeds their bound: faults of the analysis."""


class ScoreCard(msgspec.Struct, frozen=True, kw_only=True):
    """Document of `summarize --scores --json`."""

    schema_version: int = SCHEMA_VERSION
    total: Score
    rules: list[Score]
    """By rule of the finding, the most often tried first."""
    levers: list[Score]
    """By setting that was changed."""
    faults: list[Prediction]
    """Predictions whose measured saving exceeds their bound."""


def score_card(predictions: Sequence[Prediction]) -> ScoreCard:
    """Return the scores of predictions, in total, by rule and by setting."""
    return ScoreCard(
        total=_score("all advice", predictions),
        rules=_grouped(predictions, lambda each: each.rule),
        levers=_grouped(predictions, lambda each: each.lever),
        faults=[each for each in predictions if each.above_bound],
    )


def _grouped(predictions: Sequence[Prediction], kind: Callable[[Prediction], str]) -> list[Score]:
    groups: defaultdict[str, list[Prediction]] = defaultdict(list)
    for each in predictions:
        groups[kind(each)].append(each)
    return sorted((_score(name, group) for name, group in groups.items()), key=lambda score: (-score.tried, score.kind))


def _score(kind: str, group: Sequence[Prediction]) -> Score:
    helped = [each for each in group if each.outcome == "helped"]
    of_bound = [each.saves_percent / each.bound_percent for each in helped if each.bound_percent]
    return Score(
        kind=kind,
        tried=len(group),
        helped=len(helped),
        slower=sum(each.outcome == "slower" for each in group),
        helped_percent=round(100 * len(helped) / len(group), 1) if group else 0.0,
        mean_saves_percent=round(fmean(each.saves_percent for each in helped), 2) if helped else None,
        of_bound_percent=round(100 * fmean(of_bound), 1) if of_bound else None,
        above_bound=sum(each.above_bound for each in group),
    )
