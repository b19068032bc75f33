"""Protocol of a measurement: one warm-up pass, then the timed repeats, each with a new scheduler.

Every repeat starts with an empty prefix cache. The garbage collector is off, and no profiler runs.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from roseinfer.bench.engine_team import EngineTeam
from roseinfer.bench.peak_memory import forget_peak_memory
from roseinfer.config import Mode
from roseinfer.engine.engine import Engine
from roseinfer.errors import UsageError
from roseinfer.progress import ProgressCallback, StageCallback
from roseinfer.workload.clock import WALL_CLOCK, Clock
from roseinfer.workload.expert_choices import count_choices
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import WorkloadResult, run_load
from roseinfer.workload.pass_progress import reporting

WARM_UP_PASSES = 1


def measure(
    engine: Engine,
    mode: Mode,
    load: Sequence[PlannedRequest],
    *,
    repeats: int,
    on_pass: Callable[[], None] | None = None,
    on_stage: StageCallback | None = None,
    clock: Clock = WALL_CLOCK,
    team: EngineTeam | None = None,
) -> list[WorkloadResult]:
    """Run the timed passes of one mode. `on_pass` is called after each pass, including the warm-up.

    `on_stage` is called before each pass and before graphs are captured; the stages report a share of their work. With
    a `team`, each pass runs on its engines, of which `engine` is the first.

    Raises UsageError if no request has a completion token to compute.
    """
    if all(request.params.max_new_tokens == 0 for request in load):
        raise UsageError("--max-new-tokens 0 leaves nothing to measure: give 1 or more")
    for _ in range(WARM_UP_PASSES):
        warm_up(engine, mode, load, clock, on_stage, team)
        if on_pass is not None:
            on_pass()
    forget_peak_memory(engine.runner.device)
    results = []
    for repeat in range(1, repeats + 1):
        on_progress = None if on_stage is None else on_stage(f"pass {repeat} of {repeats}", "")
        results.append(timed_pass(engine, mode, load, clock, on_progress, team))
        if on_pass is not None:
            on_pass()
    return results


def timed_pass(
    engine: Engine,
    mode: Mode,
    load: Sequence[PlannedRequest],
    clock: Clock = WALL_CLOCK,
    on_progress: ProgressCallback | None = None,
    team: EngineTeam | None = None,
) -> WorkloadResult:
    """Run one pass with an empty prefix cache and the garbage collector off."""
    on_step = reporting(on_progress, load)
    with collector_off():
        if team is not None:
            return team.run_load(engine, mode, load, on_progress)
        return run_load(engine, mode, load, on_step=on_step, clock=clock)


def warm_up(
    engine: Engine,
    mode: Mode,
    load: Sequence[PlannedRequest],
    clock: Clock = WALL_CLOCK,
    on_stage: StageCallback | None = None,
    team: EngineTeam | None = None,
) -> None:
    """Run one untimed pass, then capture the CUDA graphs that the pass requested and did not find.

    A timed pass over the same load then finds all its graphs. Of a model with experts, the pass's choices are counted.
    """
    result = timed_pass(engine, mode, load, clock, None if on_stage is None else on_stage("warm-up", ""), team)
    count_choices(engine, result.outputs)
    if on_stage is not None and engine.runner.graphs is not None:
        on_stage("capturing CUDA graphs", "")
    engine.runner.capture_missing()
    if team is not None:
        team.capture_missing()


@contextmanager
def collector_off() -> Iterator[None]:
    """Collect garbage first, then turn the collector off inside the context."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
