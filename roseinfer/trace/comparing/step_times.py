"""Times of the steps of a phase, for a comparison: by their spans, or by the wall time from step to step."""

import statistics

import msgspec

from roseinfer.trace.summary.trace_summary import Summary


class StepTimes(msgspec.Struct, frozen=True):
    """Typical time of some steps, and its spread."""

    typical_ms: float
    std_ms: float
    """Sample standard deviation; 0 for a single step."""
    count: int

    def per(self, tokens: float | None) -> "StepTimes | None":
        """Return the times divided by a number of tokens per step; None if the number is unknown or 0."""
        if not tokens:
            return None
        return StepTimes(round(self.typical_ms / tokens, 6), self.std_ms / tokens, self.count)


def host_runs_ahead(summary: Summary, phase: str) -> bool:
    """Return whether the GPU works for longer per step of a phase than the step's span takes on the host.

    The span then ends before the step's GPU work does, and is not the step's time.
    """
    if summary.budget is None or summary.gpu is None:
        return False
    busy = [
        step.compute_ms + step.exposed_communication_ms + step.exposed_copy_ms
        for step in summary.budget.steps
        if step.phase == phase
    ]
    return bool(busy) and statistics.median(busy) > summary.steps.phases[phase].median_ms


def spans(summary: Summary, phase: str) -> StepTimes:
    """Return the times of the steps' spans."""
    row = summary.steps.phases[phase]
    return StepTimes(row.median_ms, row.std_ms, row.count)


def walls(summary: Summary, phase: str) -> StepTimes:
    """Return the wall times from the start of each step to the start of the next; of the last, to its end on the GPU.

    If the host runs ahead, its first steps start before the GPU has finished earlier ones, and the last wall time holds
    what is left. The mean of all is then the time of a step, and stands in place of the median.
    """
    assert summary.budget is not None
    by_step: dict[int, float] = {}
    for step in summary.budget.steps:
        if step.phase == phase:  # a step has a row per device, all of the same wall time
            by_step[step.step] = max(step.wall_ms, by_step.get(step.step, 0.0))
    times = list(by_step.values())
    spread = statistics.stdev(times) if len(times) > 1 else 0.0
    typical = statistics.fmean(times) if host_runs_ahead(summary, phase) else statistics.median(times)
    return StepTimes(round(typical, 6), round(spread, 6), len(times))
