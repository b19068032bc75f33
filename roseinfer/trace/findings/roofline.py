"""Step times compared with the device's measured bandwidth and matmul rate."""

from collections import defaultdict

import numpy as np

from roseinfer.trace.reading.trace_manifest import ManifestStep, TraceManifest
from roseinfer.trace.summary.step_structs import PhaseRoofline, Roofline, StepsSummary
from roseinfer.trace.summary.units import to_percent


def roofline(manifest: TraceManifest | None, steps: StepsSummary) -> Roofline | None:
    """Return how close each phase comes to the ceilings; None if the manifest lacks work or ceilings.

    Step times are those of the unprofiled pass if the manifest has them, else those of the trace. The floor of a step
    is the larger of bytes / bandwidth and FLOPs / rate, for the median step.
    """
    if manifest is None or manifest.ceilings is None:
        return None
    ceilings = manifest.ceilings
    if ceilings.copy_bytes_per_s <= 0 or ceilings.flops_per_s <= 0:
        return None
    work: defaultdict[str, list[ManifestStep]] = defaultdict(list)
    for step in manifest.steps:
        work[step.phase].append(step)
    has_baseline = bool(manifest.baseline_step_ms)
    phases: dict[str, PhaseRoofline] = {}
    for phase, done in sorted(work.items()):
        traced = steps.phases[phase].median_ms if phase in steps.phases else 0.0
        median_ms = manifest.baseline_step_ms.get(phase, 0.0) if has_baseline else traced
        memory_ms = 1000 * float(np.median([step.bytes for step in done])) / ceilings.copy_bytes_per_s
        compute_ms = 1000 * float(np.median([step.flops for step in done])) / ceilings.flops_per_s
        if median_ms > 0 and max(memory_ms, compute_ms) > 0:
            phases[phase] = PhaseRoofline(
                steps=len(done),
                median_ms=median_ms,
                floor_ms=round(max(memory_ms, compute_ms), 6),
                bound="memory" if memory_ms >= compute_ms else "compute",
                mbu_percent=to_percent(memory_ms, median_ms),
                mfu_percent=to_percent(compute_ms, median_ms),
            )
    if not phases:
        return None
    return Roofline(
        source="baseline" if has_baseline else "trace",
        copy_bytes_per_s=ceilings.copy_bytes_per_s,
        flops_per_s=ceilings.flops_per_s,
        phases=phases,
    )
