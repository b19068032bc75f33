"""Unprofiled steps: the warm-up, and the baseline step times that recorded steps are compared with."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

from roseinfer.config import RunConfig
from roseinfer.engine.engine import Engine
from roseinfer.engine.step_plan import Phase, StepPlan
from roseinfer.profiling.estimate import OpCounter
from roseinfer.profiling.run_dir import ProfiledStep, UnprofiledSteps
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import run_load
from roseinfer.workload.step_record import StepRecord

_WARM_UP_STEPS = 64
"""Maximum steps of the warm-up. Code that runs for the first time loads kernels and grows memory pools."""
_COUNTED_STEPS = 3
"""Maximum warm-up steps whose operators are counted, to estimate the trace's size."""


def warm_up(engine: Engine, load: Sequence[PlannedRequest], config: RunConfig) -> float:
    """Run the first steps of the load; return the mean number of operators dispatched per step, over a few steps."""
    counter = OpCounter()
    steps = 0

    def after_step(_plan: StepPlan) -> bool:
        nonlocal steps
        steps += 1
        return steps < _COUNTED_STEPS

    with counter:
        run_load(engine, config.workload.mode, load, on_step=after_step)
    counted = counter.count / max(steps, 1)

    def until_warm(_plan: StepPlan) -> bool:
        nonlocal steps
        steps += 1
        return steps < _WARM_UP_STEPS

    run_load(engine, config.workload.mode, load, on_step=until_warm)
    return counted


def baseline_steps(baseline: Sequence[StepRecord], recorded: Sequence[ProfiledStep]) -> list[UnprofiledSteps]:
    """Return the unprofiled steps of the recorded phases, by work: phase, requests and tokens.

    Launches of a phase may differ: one decodes sixteen tokens per request, another a single one. Only work that was
    recorded counts or, if a phase has none of it, all of the phase.
    """
    alike: defaultdict[tuple[Phase, int, int], list[StepRecord]] = defaultdict(list)
    for step in baseline:
        alike[step.phase, step.batch, step.tokens].append(step)
    kept = {(step.phase, step.batch, step.tokens) for step in recorded} & alike.keys()
    matched = {phase for phase, _, _ in kept}
    phases = {step.phase for step in recorded}
    return [
        UnprofiledSteps(
            phase=work[0],
            batch=work[1],
            tokens=work[2],
            steps=len(steps),
            wall_ms=median(step.wall_ms for step in steps),
            bytes=round(median(step.bytes for step in steps)),
            flops=round(median(step.flops for step in steps)),
        )
        for work, steps in alike.items()
        if work in kept or (work[0] in phases and work[0] not in matched)
    ]


def baseline_step_ms(baseline: Sequence[StepRecord], recorded: Sequence[ProfiledStep]) -> dict[str, float]:
    """Return the wall time of an unprofiled step by phase, in ms.

    It is the median over unprofiled steps with the batch and tokens of a recorded step, averaged over the recorded
    steps. Without such steps, it is the median over all unprofiled steps of the phase.
    """
    counts = Counter((step.phase, step.batch, step.tokens) for step in recorded)
    alike = [(row, counts[row.phase, row.batch, row.tokens]) for row in baseline_steps(baseline, recorded)]
    found: dict[str, float] = {}
    for phase in {step.phase: None for step in baseline}:
        rows = [(row.wall_ms, count) for row, count in alike if row.phase == phase and count]
        if rows:
            found[phase] = sum(wall_ms * count for wall_ms, count in rows) / sum(count for _, count in rows)
        else:
            found[phase] = median(step.wall_ms for step in baseline if step.phase == phase)
    return found
