"""How a benchmark is measured: one warm-up pass, then the timed repeats, each with a fresh scheduler."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.core import Prompt
from roseinfer.engine.engine import Engine
from roseinfer.errors import UsageError
from roseinfer.workload.run import WorkloadResult, run_workload


def measure(
    engine: Engine,
    mode: Mode,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    *,
    repeats: int,
    on_pass: Callable[[], None] | None = None,
) -> list[WorkloadResult]:
    """The timed passes of one mode. `on_pass` is called after each pass, the warm-up's included.

    Raises UsageError for a workload that computes nothing, whose rates would mean nothing.
    """
    if sampling.max_new_tokens == 0:
        raise UsageError("there is nothing to measure: max_new_tokens is 0")
    run_workload(engine, mode, prompts, sampling)
    results = []
    if on_pass is not None:
        on_pass()
    for _ in range(repeats):
        with _quiet_collector():
            results.append(run_workload(engine, mode, prompts, sampling))
        if on_pass is not None:
            on_pass()
    return results


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Collect garbage now, and not in the middle of a measurement."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
