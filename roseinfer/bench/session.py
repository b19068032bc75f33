"""One call of `bench`: every configuration on one engine, through one protocol."""

from collections.abc import Callable, Sequence
from typing import Literal

from msgspec.structs import replace

from roseinfer.bench.grid import Cell, with_batch_limit
from roseinfer.bench.memory import peak_memory_bytes
from roseinfer.bench.protocol import WARM_UP_PASSES, measure, timed_pass
from roseinfer.bench.request_figures import request_figures
from roseinfer.bench.results import Measured, Search, Trial
from roseinfer.bench.search import largest_that_meets
from roseinfer.bench.slo import Slo, goodput
from roseinfer.engine.engine import Engine
from roseinfer.errors import RoseinferError
from roseinfer.workload.load import plan_load
from roseinfer.workload.run import WALL_CLOCK, Clock

OnProgress = Callable[[int, int], None]

Parameter = Literal["max_batch_size", "request_rate"]
"""What a search varies."""

_CHANCES = 2
"""Passes that must miss before a value does: one may have been disturbed."""
_RATES = (1 / 1024, 1_048_576.0)


def measure_cell(
    engine: Engine, cell: Cell, *, repeats: int, on_progress: OnProgress | None = None, clock: Clock = WALL_CLOCK
) -> Measured:
    """Run the protocol on one configuration. `on_progress` gets (passes done, passes in all)."""
    limited = with_batch_limit(engine, cell.max_batch_size)
    done = 0

    def after_pass() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, repeats + WARM_UP_PASSES)

    load = plan_load(cell.workload, cell.sampling, limited)
    results = measure(limited, cell.mode, load, repeats=repeats, on_pass=after_pass, clock=clock)
    return Measured(
        name=cell.name,
        mode=cell.mode,
        max_batch_size=cell.max_batch_size,
        workload=cell.workload,
        sampling=cell.sampling,
        seed=engine.config.seed,
        results=results,
        peak_memory_bytes=peak_memory_bytes(engine.runner.device),
    )


def find_largest(
    engine: Engine,
    cell: Cell,
    parameter: Parameter,
    slo: Slo,
    *,
    on_trial: Callable[[Trial], None] | None = None,
    clock: Clock = WALL_CLOCK,
) -> tuple[Cell, Search]:
    """The largest batch limit, up to the cell's own, or request rate at which the objective is met.

    A batch limit is tried with at least as many requests. A trial is one pass, and a second one where the first
    missed. Raises RoseinferError when not even the smallest value meets the objective.
    """
    trials: list[Trial] = []

    def meets(value: float) -> bool:
        tried = cell_with(cell, parameter, value)
        limited = with_batch_limit(engine, tried.max_batch_size)
        load = plan_load(tried.workload, tried.sampling, limited)
        if not trials:
            timed_pass(limited, tried.mode, load, clock)
        met = 0.0
        for _ in range(_CHANCES):
            result = timed_pass(limited, tried.mode, load, clock)
            met = max(met, goodput(slo, request_figures(result, 0), result.add_s + result.run_s).met_percent)
            if met >= slo.share_percent:
                break
        trials.append(Trial(value=value, met_percent=met))
        if on_trial is not None:
            on_trial(trials[-1])
        return met >= slo.share_percent

    if parameter == "max_batch_size":
        found = largest_that_meets(meets, start=1, lowest=1, highest=cell.max_batch_size, whole=True)
    else:
        found = largest_that_meets(meets, start=1.0, lowest=_RATES[0], highest=_RATES[1])
    if found is None:
        raise RoseinferError(f"no {parameter} meets {slo}: {_described(trials)}")
    return cell_with(cell, parameter, found), Search(parameter=parameter, found=found, trials=trials)


def cell_with(cell: Cell, parameter: Parameter, value: float) -> Cell:
    """The same configuration at another batch limit or rate."""
    if parameter == "request_rate":
        return replace(cell, workload=replace(cell.workload, request_rate=value))
    requests = max(int(value), cell.workload.num_requests or 1)
    return replace(cell, max_batch_size=int(value), workload=replace(cell.workload, num_requests=requests))


def _described(trials: Sequence[Trial]) -> str:
    return ", ".join(f"at {trial.value:g}, {trial.met_percent:.0f} % of the requests met it" for trial in trials)
