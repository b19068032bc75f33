"""Steps run before any profiler: the warm-up, and the baseline that recorded steps are compared with."""

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
"""Most steps of the pass before the baseline: what runs for the first time loads kernels and grows memory pools."""
_COUNTED_STEPS = 3
"""Steps whose operators are counted, to estimate the trace's size."""


def warm_up(engine: Engine, load: Sequence[PlannedRequest], config: RunConfig) -> float:
    """Run the first steps unmeasured; how many operators the first few called, on average."""
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
    """Median wall time of an unprofiled step by phase, in ms: of those with as much work as the recorded ones, if any.

    The steps of a phase may differ much: one launch decodes sixteen tokens of each request, and another one of each.
    """
    alike = {(step.phase, step.batch, step.tokens) for step in recorded}
    found: dict[str, float] = {}
    for phase in {step.phase: None for step in baseline}:
        steps = [step for step in baseline if step.phase == phase]
        same = [step for step in steps if (phase, step.batch, step.tokens) in alike]
        found[phase] = median(step.wall_ms for step in same or steps)
    return found
