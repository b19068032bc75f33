"""Times of the steps of a phase in two traces, compared over steps of the same work.

Launches of a phase may differ: one decodes 16 tokens per request, another a single one. A median over all of them would
say how many of each a trace holds. Steps with as many requests and tokens are therefore compared with each other.
"""

import math
import statistics
from collections import Counter, defaultdict
from typing import Literal, NamedTuple

from roseinfer.trace.summary.trace_summary import Summary

_COMMON = 0.25
"""Share of each trace's time in a phase that work of both traces must take for only that work to be compared."""

Work = tuple[int | None, int | None]
"""Requests and tokens of a step."""


class StepTimes(NamedTuple):
    """Typical time of some steps: the median of steps of the same work, averaged over work."""

    typical_ms: float
    error_ms: float | None
    """Standard error; None if it is unknown."""

    def per(self, tokens: float | None) -> "StepTimes | None":
        """Return the times divided by a number of tokens per step; None if the number is unknown or 0."""
        if not tokens:
            return None
        return StepTimes(round(self.typical_ms / tokens, 6), None if self.error_ms is None else self.error_ms / tokens)


class PhaseTimes(NamedTuple):
    """Times of a phase's steps in the baseline and in the new trace; pairs are in this order."""

    phase: str
    times: tuple[StepTimes, StepTimes]
    tokens: tuple[float | None, float | None]
    """Mean tokens of the compared steps."""
    timed_by: Literal["span", "wall"]
    scales: tuple[float, float]
    """Typical time of the compared steps, relative to that of all steps of the phase in the same trace."""
    weights: dict[Work, float]
    """How often each work counts that both traces have; empty if they have little in common."""

    @property
    def is_same_mix(self) -> bool:
        """True if no trace has to be weighed differently from its own steps."""
        return self.scales == (1.0, 1.0)

    def step_weights(self, baseline: Summary, new: Summary) -> tuple[dict[int, float], dict[int, float]]:
        """Return how often the steps of each trace count, by their index, so that both have the same work."""
        return self._weights_of(baseline), self._weights_of(new)

    def _weights_of(self, summary: Summary) -> dict[int, float]:
        steps = summary.steps.of_phase(self.phase)
        counts = Counter(step.work for step in steps)
        return {step.step: self.weights.get(step.work, 0.0) / counts[step.work] for step in steps}


def phase_times(baseline: Summary, new: Summary, phase: str) -> PhaseTimes:
    """Return the times of a phase in two traces, by its spans or, if a host runs ahead, from step to step."""
    runs_ahead = any(summary.steps.phases[phase].timed_by == "wall" for summary in (baseline, new))
    old, now = (_by_work(summary, phase, runs_ahead) for summary in (baseline, new))
    own_old, own_new = ({work: float(len(times)) for work, times in each.items()} for each in (old, now))
    common = {work: own_old[work] + own_new[work] for work in old if work in now}
    if not all(_share(each, common) >= _COMMON for each in (old, now)):
        times = _typical(old, own_old, _spread(old)), _typical(now, own_new, _spread(now))
        tokens = _tokens(own_old), _tokens(own_new)
        return PhaseTimes(phase, times, tokens, "wall" if runs_ahead else "span", (1.0, 1.0), {})
    spreads = _spread(old), _spread(now)
    before = _typical(old, common, spreads[0] if spreads[0] is not None else spreads[1])
    after = _typical(now, common, spreads[1] if spreads[1] is not None else spreads[0])
    if spreads == (None, None) and len(common) > 1:
        after = after._replace(error_ms=_paired_error(old, now, common, before.typical_ms))
        before = before._replace(error_ms=0.0)
    return PhaseTimes(
        phase=phase,
        times=(before, after),
        tokens=(_tokens(common), _tokens(common)),
        timed_by="wall" if runs_ahead else "span",
        scales=(_scale(old, own_old, common), _scale(now, own_new, common)),
        weights=common,
    )


def _by_work(summary: Summary, phase: str, runs_ahead: bool) -> dict[Work, list[float]]:
    """Return the times in ms of the steps of a phase by their work: of spans, or from the end of the step before."""
    found: defaultdict[Work, list[float]] = defaultdict(list)
    for step in summary.steps.of_phase(phase):
        found[step.work].append(step.gap_ms + step.ms if runs_ahead else step.span_ms)
    return found


def _share(times: dict[Work, list[float]], common: dict[Work, float]) -> float:
    """Return the share of the time that steps of common work take."""
    total = sum(sum(each) for each in times.values())
    return sum(sum(times[work]) for work in common) / total if total > 0 else float(bool(common))


def _typical(times: dict[Work, list[float]], weights: dict[Work, float], spread: float | None) -> StepTimes:
    """Return the typical time of steps; `spread` is that of steps of the same work, relative to their mean.

    Without one, it is the sample standard deviation of all steps.
    """
    total = sum(weights.values())
    typical_ms = sum(weight * statistics.median(times[work]) for work, weight in weights.items()) / total
    every = [ms for each in times.values() for ms in each]
    error_ms = None
    if spread is not None:
        parts = (
            weight / total * spread * statistics.fmean(times[work]) / math.sqrt(len(times[work]))
            for work, weight in weights.items()
        )
        error_ms = math.hypot(*parts)
    elif len(every) > 1:
        error_ms = statistics.stdev(every) / math.sqrt(len(every))
    return StepTimes(round(typical_ms, 6), error_ms)


def _spread(times: dict[Work, list[float]]) -> float | None:
    """Return the standard deviation of steps of the same work, relative to their mean; None if no two have the same."""
    squares = degrees = 0.0
    for each in times.values():
        mean = statistics.fmean(each)
        squares += sum((ms / mean - 1) ** 2 for ms in each) if mean > 0 else 0.0
        degrees += len(each) - 1
    return math.sqrt(squares / degrees) if degrees else None


def _paired_error(
    old: dict[Work, list[float]], new: dict[Work, list[float]], common: dict[Work, float], typical_ms: float
) -> float | None:
    """Return the standard error of the change, from how much it differs from work to work."""
    pairs = [(statistics.median(old[work]), statistics.median(new[work])) for work in common]
    changes = [after / before for before, after in pairs if before > 0]
    return typical_ms * statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else None


def _scale(times: dict[Work, list[float]], own: dict[Work, float], common: dict[Work, float]) -> float:
    """Return the time of a step of common work, relative to a step of the trace's own mix of work."""
    own_ms, common_ms = (
        sum(weight * statistics.median(times[work]) for work, weight in weights.items()) / sum(weights.values())
        for weights in (own, common)
    )
    return round(common_ms / own_ms, 6) if own_ms > 0 else 1.0


def _tokens(weights: dict[Work, float]) -> float | None:
    """Return the mean tokens per step; None if those of any step are unknown."""
    total = 0.0
    for (_, tokens), weight in weights.items():
        if tokens is None:
            return None
        total += tokens * weight
    return total / sum(weights.values())
