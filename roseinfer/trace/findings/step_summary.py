"""Times and GPU work of the steps per phase, and the outliers among them."""

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.idle_gaps import Gaps
from roseinfer.trace.facts.steps import Steps, steps_at
from roseinfer.trace.reading.columns import Ints, Trace
from roseinfer.trace.summary.step_structs import Outlier, PhaseSummary, StepsSummary
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_OUTLIERS = 10
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
    phases: dict[str, PhaseSummary] = {}
    outliers: list[Outlier] = []
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
        outliers += _outliers(phase, at, durations[at])
    outliers.sort(key=lambda outlier: -outlier.times_median)
    return StepsSummary(source=steps.source, count=len(steps), phases=phases, outliers=outliers[:_MAX_OUTLIERS])


def _mean(counts: list[int | None]) -> float | None:
    """Return the mean of the counts; None if the count of any step is unknown."""
    known = [count for count in counts if count is not None]
    return round(sum(known) / len(known), 3) if len(known) == len(counts) else None


def _outliers(phase: str, at: Ints, durations: Ints) -> list[Outlier]:
    """Return the steps far above the median.

    The spread is estimated by the median absolute deviation, which the outliers themselves do not influence.
    """
    median = float(np.median(durations))
    if len(at) < 5 or median == 0:
        return []
    spread = 1.4826 * float(np.median(np.abs(durations - median)))
    limit = max(median + _OUTLIER_SPREADS * spread, median * _OUTLIER_SHARE)
    return [
        Outlier(step=step, phase=phase, ms=to_ms(duration), times_median=round(duration / median, 2))
        for step, duration in zip(at.tolist(), durations.tolist(), strict=True)
        if duration > limit
    ]
