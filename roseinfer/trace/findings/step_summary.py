"""Times and GPU work of the steps per phase, and the outliers among them."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.job_times import JobTimes
from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.steps import steps_at
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.step_structs import Outlier, PhaseSummary, StepsSummary, StepTime
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_OUTLIERS = 10
_MIN_STEPS = 5
"""Minimum steps whose median says what a step takes."""
_AHEAD = 0.1
"""Share of a step's span from which GPU work after the span's end means that the host runs ahead."""
_OUTLIER_SPREADS = 6.0
_OUTLIER_SHARE = 1.25


def summarize_steps(facts: Facts, groups: StepGroups, durations: JobTimes) -> StepsSummary:
    """Return count, median, p90, spread, GPU work and tokens per phase, and the outliers.

    Counts and times are those of the job's steps, work and tokens the mean of a step on one rank.
    """
    trace, steps, event_step = facts.trace, facts.steps, facts.event_step
    attribution, gaps, gpu = facts.attribution, facts.gaps, facts.trace.gpu

    def by_step(step: Ints, values: Ints | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the sum of the values per step, `[steps]`; values of step -1 are left out."""
        return np.asarray(np.bincount(step + 1, weights=values, minlength=len(steps) + 1)[1:], np.float64)

    launched = steps_at(steps, trace.calls.start_ns[attribution.launches(slice(None))])
    events = by_step(event_step, np.ones(len(event_step), np.int64))
    replayed = by_step(event_step, attribution.replayed)
    gpu_ns = by_step(event_step, gpu.end_ns - gpu.start_ns)
    launches = by_step(launched, np.ones(len(launched), np.int64))
    host_idle_ns = by_step(event_step[gaps.event], gaps.host_late_ns + gaps.launch_call_ns)
    times = _times(facts, groups, durations)
    phases: dict[str, PhaseSummary] = {}
    for phase in sorted({label.phase for label in steps.labels}):
        at = np.array([index for index, label in enumerate(steps.labels) if label.phase == phase])
        of_job = np.unique(groups.of_step[at])
        ns, tail_ns, span_ns = (one[of_job] for one in (durations.own_ns, durations.tail_ns, durations.span_ns))
        phases[phase] = PhaseSummary(
            count=len(of_job),
            median_ms=to_ms(np.median(ns)),
            p90_ms=to_ms(np.percentile(ns, 90)),
            std_ms=to_ms(np.std(ns, ddof=1)) if len(ns) > 1 else 0.0,
            gpu_events_per_step=round(float(events[at].mean()), 3),
            launches_per_step=round(float(launches[at].mean()), 3),
            replayed_percent=to_percent(replayed[at].sum(), events[at].sum()),
            host_idle_ms_per_step=to_ms(host_idle_ns[at].mean()),
            gpu_ms_per_step=to_ms(gpu_ns[at].mean()),
            tokens_per_step=_mean([steps.labels[index].tokens for index in at.tolist()]),
            batch_per_step=_mean([steps.labels[index].batch for index in at.tolist()]),
            rank_steps=len(at),
            timed_by="wall" if np.median(tail_ns - _AHEAD * span_ns) > 0 else "span",
        )
    outliers = [one for phase in phases for one in _outliers([step for step in times if step.phase == phase])]
    outliers.sort(key=lambda outlier: -outlier.times_median)
    return StepsSummary(
        source=steps.source,
        count=len(groups),
        rank_steps=len(steps),
        phases=phases,
        outliers=outliers[:_MAX_OUTLIERS],
        times=times,
    )


def _times(facts: Facts, groups: StepGroups, durations: JobTimes) -> list[StepTime]:
    """Return the times of the job's steps, with the label of the first rank."""
    columns = (durations.own_ns, durations.span_ns, durations.gap_ns, durations.tail_ns)
    _, first = np.unique(groups.of_step, return_index=True)
    labels = [facts.steps.labels[index] for index in first.tolist()]
    return [
        StepTime(step, label.phase, label.batch, label.tokens, *(to_ms(int(column[step])) for column in columns))
        for step, label in enumerate(labels)
    ]


def _mean(counts: list[int | None]) -> float | None:
    """Return the mean of the counts; None if the count of any step is unknown."""
    known = [count for count in counts if count is not None]
    return round(sum(known) / len(known), 3) if len(known) == len(counts) else None


def _outliers(steps: Sequence[StepTime]) -> list[Outlier]:
    """Return the steps of a phase that take far longer than the median of steps of the same work.

    If fewer than five steps have the same work, the others of the phase stand in: a step with more tokens than the
    median step may then take longer in proportion.
    """
    alike: defaultdict[tuple[int | None, int | None], list[StepTime]] = defaultdict(list)
    for step in steps:
        alike[step.work].append(step)
    found: list[Outlier] = []
    common: set[int] = set()
    for same in alike.values():
        if len(same) >= _MIN_STEPS:
            typical_ms = median(step.ms for step in same)
            found += _far_above([(step, typical_ms) for step in same])
            common |= {step.step for step in same}
    if len(steps) >= _MIN_STEPS:
        typical_ms = median(step.ms for step in steps)
        typical = median(step.tokens or 0 for step in steps)
        expected = [(step, typical_ms * max(1.0, (step.tokens or 0) / typical if typical else 1.0)) for step in steps]
        found += [one for one in _far_above(expected) if one.step not in common]
    return found


def _far_above(steps: Sequence[tuple[StepTime, float]]) -> list[Outlier]:
    """Return the steps that take far longer than expected; each has its expected time in ms.

    The spread is estimated by the median absolute deviation, which the outliers themselves do not influence.
    """
    if any(expected_ms <= 0 for _, expected_ms in steps):
        return []
    times = [step.ms / expected_ms for step, expected_ms in steps]
    middle = median(times)
    spread = 1.4826 * median(abs(one - middle) for one in times)
    limit = max(1 + _OUTLIER_SPREADS * spread, _OUTLIER_SHARE)
    return [
        Outlier(step=step.step, phase=step.phase, ms=step.ms, times_median=round(one, 2))
        for (step, _), one in zip(steps, times, strict=True)
        if one > limit
    ]
