"""How a benchmark is measured: one warm-up pass, then the timed repeats, each with a fresh scheduler.

No repeat finds in the prefix cache what another one left there, the garbage collector is quiet, and nothing profiles.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from roseinfer.bench.peak_memory import forget_peak_memory
from roseinfer.config import Mode
from roseinfer.engine.engine import Engine
from roseinfer.errors import UsageError
from roseinfer.workload.clock import WALL_CLOCK, Clock
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import WorkloadResult, run_load

WARM_UP_PASSES = 1


def measure(
    engine: Engine,
    mode: Mode,
    load: Sequence[PlannedRequest],
    *,
    repeats: int,
    on_pass: Callable[[], None] | None = None,
    clock: Clock = WALL_CLOCK,
) -> list[WorkloadResult]:
    """The timed passes of one mode. `on_pass` is called after each pass, the warm-up's included.

    Raises UsageError for a workload that computes nothing, whose rates would mean nothing.
    """
    if all(request.params.max_new_tokens == 0 for request in load):
        raise UsageError("there is nothing to measure: max_new_tokens is 0")
    for _ in range(WARM_UP_PASSES):
        warm_up(engine, mode, load, clock)
        if on_pass is not None:
            on_pass()
    forget_peak_memory(engine.runner.device)
    results = []
    for _ in range(repeats):
        results.append(timed_pass(engine, mode, load, clock))
        if on_pass is not None:
            on_pass()
    return results


def timed_pass(engine: Engine, mode: Mode, load: Sequence[PlannedRequest], clock: Clock = WALL_CLOCK) -> WorkloadResult:
    """One pass, which starts with an empty prefix cache and a quiet collector."""
    with _quiet_collector():
        return run_load(engine, mode, load, clock=clock)


def warm_up(engine: Engine, mode: Mode, load: Sequence[PlannedRequest], clock: Clock = WALL_CLOCK) -> None:
    """A pass that does not count, and then the graphs that it wanted and did not get: the same load finds them all."""
    timed_pass(engine, mode, load, clock)
    engine.runner.capture_missing()


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Collect garbage now, and not in the middle of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
