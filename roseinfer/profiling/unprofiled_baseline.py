"""Unprofiled steps: the warm-up, and the baseline step times that recorded steps are compared with."""

from collections.abc import Sequence
from statistics import median

from roseinfer.config import RunConfig
from roseinfer.engine.engine import Engine
from roseinfer.engine.step_plan import StepPlan
from roseinfer.profiling.estimate import OpCounter
from roseinfer.profiling.run_dir import ProfiledStep
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


def baseline_step_ms(baseline: Sequence[StepRecord], recorded: Sequence[ProfiledStep]) -> dict[str, float]:
    """Return the median wall time of an unprofiled step by phase, in ms.

    The median is over the steps with the phase, batch and tokens of a recorded step, or over all steps of the phase if
    there are none. Steps of a phase may differ: one launch decodes sixteen tokens per request, another a single one.
    """
    alike = {(step.phase, step.batch, step.tokens) for step in recorded}
    found: dict[str, float] = {}
    for phase in {step.phase: None for step in baseline}:
        steps = [step for step in baseline if step.phase == phase]
        same = [step for step in steps if (phase, step.batch, step.tokens) in alike]
        found[phase] = median(step.wall_ms for step in same or steps)
    return found
