"""Step times compared with the device's measured bandwidth and matmul rate."""

from collections import defaultdict

from roseinfer.trace.findings.unprofiled_times import WorkTimes, phase_slowdowns, traced_times, unprofiled_times
from roseinfer.trace.reading.trace_manifest import ManifestCeilings, TraceManifest
from roseinfer.trace.summary.step_structs import PhaseRoofline, Roofline, StepsSummary
from roseinfer.trace.summary.units import to_percent


def roofline(manifest: TraceManifest | None, steps: StepsSummary) -> Roofline | None:
    """Return how close each phase comes to the ceilings; None if the manifest lacks work or ceilings.

    Step times are those of the unprofiled pass if the manifest has them for each kind of recorded work, else those of
    the trace. The floor of a step is the larger of bytes / bandwidth and FLOPs / rate, over steps of the same work.
    """
    if manifest is None or manifest.ceilings is None:
        return None
    ceilings = manifest.ceilings
    if ceilings.copy_bytes_per_s <= 0 or ceilings.flops_per_s <= 0:
        return None
    has_baseline = bool(manifest.baseline_steps or manifest.baseline_step_ms)
    unprofiled = unprofiled_times(manifest) if has_baseline else None
    by_phase: defaultdict[str, list[WorkTimes]] = defaultdict(list)
    for row in traced_times(manifest, steps) if unprofiled is None else unprofiled:
        if row.ms > 0 and max(row.bytes, row.flops) > 0:
            by_phase[row.phase].append(row)
    if not by_phase:
        return None
    slowdowns = phase_slowdowns(manifest, steps)
    phases: dict[str, PhaseRoofline] = {}
    for phase, rows in sorted(by_phase.items()):
        traced_ms, unprofiled_ms = slowdowns.get(phase, (0.0, 0.0)) if unprofiled is not None else (1.0, 1.0)
        phases[phase] = _phase(rows, ceilings, traced_ms / unprofiled_ms if unprofiled_ms else None)
    return Roofline(
        source="trace" if unprofiled is None else "baseline",
        copy_bytes_per_s=ceilings.copy_bytes_per_s,
        flops_per_s=ceilings.flops_per_s,
        phases=phases,
    )


def _phase(rows: list[WorkTimes], ceilings: ManifestCeilings, slowdown: float | None) -> PhaseRoofline:
    """Return the figures of the mean step of a phase; `slowdown` is the ratio of its time in the trace to `ms`."""
    count = sum(row.steps for row in rows)
    step_ms = memory_ms = compute_ms = floor_ms = 0.0
    for row in rows:
        share = row.steps / count
        moving_ms = 1000 * row.bytes / ceilings.copy_bytes_per_s
        computing_ms = 1000 * row.flops / ceilings.flops_per_s
        step_ms += share * row.ms
        memory_ms += share * moving_ms
        compute_ms += share * computing_ms
        floor_ms += share * max(moving_ms, computing_ms)
    return PhaseRoofline(
        steps=count,
        median_ms=round(step_ms, 6),
        floor_ms=round(floor_ms, 6),
        bound="memory" if memory_ms >= compute_ms else "compute",
        mbu_percent=to_percent(memory_ms, step_ms),
        mfu_percent=to_percent(compute_ms, step_ms),
        traced_ms=None if slowdown is None else round(step_ms * slowdown, 6),
    )
