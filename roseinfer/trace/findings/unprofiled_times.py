"""Times of unprofiled steps from the manifest, matched with recorded steps of the same work."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from roseinfer.trace.reading.trace_manifest import ManifestStep, TraceManifest
from roseinfer.trace.summary.step_structs import StepsSummary

_EVEN = 1.5
"""Ratio of the tokens of two steps up to which one unprofiled time stands for both."""

Work = tuple[str, int, int]
"""Phase, requests and tokens of a step, by which steps compute as much."""


class WorkTimes(NamedTuple):
    """Recorded steps of one phase and of the same work, with the typical cost of one."""

    phase: str
    steps: int
    """Number of recorded steps."""
    ms: float
    """Time of a step."""
    bytes: float
    flops: float


def unprofiled_times(manifest: TraceManifest) -> list[WorkTimes] | None:
    """Return the times of unprofiled steps, by work; None if they are unknown for recorded steps of different work.

    Steps of work that was not recorded are left out, unless the whole phase has none that was. Older manifests have
    only one time per phase, which is of no use if its steps differ.
    """
    recorded = Counter((step.phase, step.batch, step.tokens) for step in manifest.steps)
    if manifest.baseline_steps:
        matched = {row.phase for row in manifest.baseline_steps if (row.phase, row.batch, row.tokens) in recorded}
        rows = (
            (row, recorded[row.phase, row.batch, row.tokens] if row.phase in matched else row.steps)
            for row in manifest.baseline_steps
        )
        return [WorkTimes(row.phase, steps, row.wall_ms, row.bytes, row.flops) for row, steps in rows if steps > 0]
    found: list[WorkTimes] = []
    for phase, steps in _by_phase(manifest.steps).items():
        if not _are_even(steps):
            return None
        ms = manifest.baseline_step_ms.get(phase, 0.0)
        found.append(WorkTimes(phase, len(steps), ms, *_typical(steps)))
    return found


def traced_times(manifest: TraceManifest, steps: StepsSummary) -> list[WorkTimes]:
    """Return the times of the steps in the trace whose work the manifest lists."""
    cost: defaultdict[Work, list[ManifestStep]] = defaultdict(list)
    for one in manifest.steps:
        cost[one.phase, one.batch, one.tokens].append(one)
    return [
        WorkTimes(work[0], len(cost[work]), median(times), *_typical(cost[work]))
        for work, times in _by_work(steps).items()
        if work in cost
    ]


def phase_slowdowns(manifest: TraceManifest, steps: StepsSummary) -> dict[str, tuple[float, float]]:
    """Return, by phase, the times of a step in ms in the trace and without the profiler, over steps of the same work.

    A phase is left out if the two passes have no work in common.
    """
    found: dict[str, tuple[float, float]] = {}
    if not manifest.baseline_steps:
        uneven = {phase for phase, done in _by_phase(manifest.steps).items() if not _are_even(done)}
        for phase, ms in manifest.baseline_step_ms.items():
            times = [step.ms for step in steps.of_phase(phase)]
            if times and ms > 0 and phase not in uneven:
                found[phase] = median(times), ms
        return found
    sums: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
    traced = _by_work(steps)
    for row in manifest.baseline_steps:
        times = traced.get((row.phase, row.batch, row.tokens), [])
        if times and row.wall_ms > 0:
            sums[row.phase].append((len(times), median(times), row.wall_ms))
    for phase, rows in sums.items():
        count = sum(steps for steps, _, _ in rows)
        found[phase] = (
            sum(steps * ms for steps, ms, _ in rows) / count,
            sum(steps * ms for steps, _, ms in rows) / count,
        )
    return found


def _by_phase(steps: Iterable[ManifestStep]) -> dict[str, list[ManifestStep]]:
    found: defaultdict[str, list[ManifestStep]] = defaultdict(list)
    for step in steps:
        found[step.phase].append(step)
    return found


def _by_work(steps: StepsSummary) -> dict[Work, list[float]]:
    """Return the times in ms of the trace's steps by work, without those of unknown work."""
    found: defaultdict[Work, list[float]] = defaultdict(list)
    for step in steps.times:
        if step.batch is not None and step.tokens is not None:
            found[step.phase, step.batch, step.tokens].append(step.ms)
    return found


def _are_even(steps: list[ManifestStep]) -> bool:
    tokens = [step.tokens for step in steps]
    return max(tokens) <= _EVEN * min(tokens)


def _typical(steps: list[ManifestStep]) -> tuple[float, float]:
    """Return the median bytes and FLOPs of a step."""
    return median(step.bytes for step in steps), median(step.flops for step in steps)
