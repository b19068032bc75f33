"""Times and GPU work of the steps per phase, and the outliers among them."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.idle_gaps import Gaps
from roseinfer.trace.facts.step_times import step_times
from roseinfer.trace.facts.steps import Steps, steps_at
from roseinfer.trace.reading.columns import Ints, Trace
from roseinfer.trace.summary.step_structs import Outlier, PhaseSummary, StepsSummary, StepTime
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_OUTLIERS = 10
_MIN_STEPS = 5
"""Minimum steps whose median says what a step takes."""
_OUTLIER_SPREADS = 6.0
_OUTLIER_SHARE = 1.25


def summarize_steps(trace: Trace, steps: Steps, event_step: Ints, attribution: Attribution, gaps: Gaps) -> StepsSummary:
    """Return count, median, p90, spread, GPU work and tokens per phase, and the outliers."""
    durations = steps.end_ns - steps.start_ns
    gpu = trace.gpu

    def by_step(step: Ints, values: Ints | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the sum of the values per step, `[steps]`; values of step -1 are left out."""
        return np.asarray(np.bincount(step + 1, weights=values, minlength=len(steps) + 1)[1:], np.float64)

    launched = steps_at(steps, trace.calls.start_ns[attribution.launches(slice(None))])
    events = by_step(event_step, np.ones(len(event_step), np.int64))
    replayed = by_step(event_step, attribution.replayed)
    gpu_ns = by_step(event_step, gpu.end_ns - gpu.start_ns)
    launches = by_step(launched, np.ones(len(launched), np.int64))
    host_idle_ns = by_step(event_step[gaps.event], gaps.host_late_ns + gaps.launch_call_ns)
    times = _times(trace, steps, event_step)
    phases: dict[str, PhaseSummary] = {}
    for phase in sorted({label.phase for label in steps.labels}):
        at = np.array([index for index, label in enumerate(steps.labels) if label.phase == phase])
        phases[phase] = PhaseSummary(
            count=len(at),
            median_ms=to_ms(np.median(durations[at])),
            p90_ms=to_ms(np.percentile(durations[at], 90)),
            std_ms=to_ms(np.std(durations[at], ddof=1)) if len(at) > 1 else 0.0,
            gpu_events_per_step=round(float(events[at].mean()), 3),
            launches_per_step=round(float(launches[at].mean()), 3),
            replayed_percent=to_percent(replayed[at].sum(), events[at].sum()),
            host_idle_ms_per_step=to_ms(host_idle_ns[at].mean()),
            gpu_ms_per_step=to_ms(gpu_ns[at].mean()),
            tokens_per_step=_mean([steps.labels[index].tokens for index in at.tolist()]),
            batch_per_step=_mean([steps.labels[index].batch for index in at.tolist()]),
        )
    outliers = [one for phase in phases for one in _outliers([step for step in times if step.phase == phase])]
    outliers.sort(key=lambda outlier: -outlier.times_median)
    return StepsSummary(
        source=steps.source, count=len(steps), phases=phases, outliers=outliers[:_MAX_OUTLIERS], times=times
    )


def _times(trace: Trace, steps: Steps, event_step: Ints) -> list[StepTime]:
    found = step_times(trace, steps, event_step)
    columns = (found.own_ns, steps.end_ns - steps.start_ns, found.gap_ns, found.tail_ns)
    return [
        StepTime(step, label.phase, label.batch, label.tokens, *(to_ms(int(column[step])) for column in columns))
        for step, label in enumerate(steps.labels)
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
