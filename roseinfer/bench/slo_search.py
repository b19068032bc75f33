"""Search for the largest batch limit or request rate at which an engine meets an objective."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from msgspec.structs import replace

from roseinfer.bench.bisection import largest_that_meets, largest_whole_that_meets
from roseinfer.bench.grid import Cell, with_batch_limit
from roseinfer.bench.numbers import plain
from roseinfer.bench.protocol import timed_pass, warm_up
from roseinfer.bench.request_figures import RequestFigures, request_figures
from roseinfer.bench.results import Search, Trial
from roseinfer.bench.slo import Slo, goodput
from roseinfer.engine.engine import Engine
from roseinfer.errors import RoseinferError
from roseinfer.workload.clock import WALL_CLOCK, Clock
from roseinfer.workload.load_plan import plan_load

Parameter = Literal["max_batch_size", "request_rate"]
"""Parameter that a search varies."""

_MAX_PASSES = 2
"""Maximum passes per value. A value misses the objective only if all of them do, since one may be disturbed."""
_NUM_SEQUENTIAL = 8
"""Maximum requests that run one at a time before a search for a rate."""
_SPARSE = 1 / 8
"""Mean requests in flight, at or below which requests are assumed not to slow each other down."""


def find_largest(
    engine: Engine,
    cell: Cell,
    parameter: Parameter,
    slo: Slo,
    *,
    on_trial: Callable[[Trial], None] | None = None,
    clock: Clock = WALL_CLOCK,
) -> tuple[Cell, Search]:
    """Find the largest batch limit or request rate that meets the objective.

    Returns the cell with the value found, and the record of the search. To try a value, the load runs once, and a
    second time if the first pass misses the objective. Batch limits are tried from the cell's own downwards, each with
    at least as many requests as the limit.

    A search for a rate starts at the rate that the engine reaches with one request at a time. The search ends early if
    the load is too short for a tighter answer (`Search.load_too_short`). Raises RoseinferError if no value that was
    tried meets the objective, or, in a search for a rate, if requests that run alone miss it.
    """
    trials = _Trials(engine, cell, parameter, slo, on_trial, clock)
    found: float | None
    if parameter == "max_batch_size":
        found = largest_whole_that_meets(trials.meets, highest=cell.max_batch_size or engine.limits.max_batch_size)
    else:
        start = _rate_of_one_by_one(engine, cell_with(cell, parameter, 1.0), slo, clock)
        found = largest_that_meets(trials.meets, start=start, lowest=0.0, highest=math.inf, is_last=trials.is_last)
    if found is None:
        raise RoseinferError(f"no {_option(parameter)} meets {slo}: {trials.described()}")
    too_short = parameter == "request_rate" and trials.is_too_short(found)
    return cell_with(cell, parameter, found), Search(
        parameter=parameter, found=found, trials=trials.done, load_too_short=too_short
    )


def next_lower(cell: Cell, search: Search, slo: Slo, met_percent: float) -> tuple[Cell, Search]:
    """Return the next lower value that met the objective in the search, after the final run of the value found did not.

    `met_percent` is the share of requests that met it in the final run, which becomes a trial of the search. Raises
    RoseinferError if no lower value met the objective.
    """
    parameter: Parameter = "max_batch_size" if search.parameter == "max_batch_size" else "request_rate"
    trials = [*search.trials, Trial(value=search.found, met_percent=met_percent, requests_per_s=None)]
    lower = [trial.value for trial in trials if trial.value < search.found and trial.met_percent >= slo.share_percent]
    if not lower:
        raise RoseinferError(f"no {_option(parameter)} meets {slo} repeatedly: {_described(trials)}")
    return cell_with(cell, parameter, max(lower)), replace(search, found=max(lower), trials=trials)


class _Trials:
    """Runs the passes of a search, one value after another, and records their outcomes."""

    def __init__(
        self,
        engine: Engine,
        cell: Cell,
        parameter: Parameter,
        slo: Slo,
        on_trial: Callable[[Trial], None] | None,
        clock: Clock,
    ) -> None:
        self._engine, self._cell, self._parameter = engine, cell, parameter
        self._slo, self._on_trial, self._clock = slo, on_trial, clock
        self.done: list[Trial] = []
        self._passes: dict[float, _TrialPass] = {}

    def meets(self, value: float) -> bool:
        """Run the load with one value of the parameter. True if the objective is met."""
        tried = cell_with(self._cell, self._parameter, value)
        limited = with_batch_limit(self._engine, tried.max_batch_size)
        load = plan_load(tried.workload, tried.sampling, limited)
        if not self.done:
            warm_up(limited, tried.mode, load, self._clock)
        met = 0.0
        for _ in range(_MAX_PASSES):
            result = timed_pass(limited, tried.mode, load, self._clock)
            figures, elapsed_s = request_figures(result, 0), result.add_s + result.run_s
            met = max(met, goodput(self._slo, figures, elapsed_s).met_percent)
            if met >= self._slo.share_percent:
                break
        self._passes[value] = _TrialPass(max(planned.arrival_s for planned in load), elapsed_s, figures)
        self.done.append(Trial(value=value, met_percent=met, requests_per_s=len(load) / elapsed_s))
        if self._on_trial is not None:
            self._on_trial(self.done[-1])
        return met >= self._slo.share_percent

    def is_last(self, value: float) -> bool:
        """True if no further rate needs to be tried.

        After a rate that met the objective, this is about higher rates; after a rate that missed it, about lower ones.
        """
        if self.done[-1].met_percent >= self._slo.share_percent:
            return self.is_too_short(value)
        tried = self._passes[value]
        in_flight = sum(each.e2e_s or 0.0 for each in tried.figures) / tried.elapsed_s
        return tried.arrivals_s == 0 or in_flight <= _SPARSE

    def is_too_short(self, value: float) -> bool:
        """True if most of the pass ran after the last arrival, so that less than half of the rate was served."""
        tried = self._passes[value]
        return 2 * tried.arrivals_s < tried.elapsed_s

    def described(self) -> str:
        """Return the outcomes of all trials as text, for the error message of a search that found nothing."""
        last = self._passes[self.done[-1].value].figures
        return f"{_described(self.done)}; {self._slo.medians(last)}"


class _TrialPass(NamedTuple):
    """Outcome of the last pass at one value."""

    arrivals_s: float
    """Arrival of the last request in seconds, ignoring later turns of conversations."""
    elapsed_s: float
    figures: list[RequestFigures]


def _rate_of_one_by_one(engine: Engine, cell: Cell, slo: Slo, clock: Clock) -> float:
    """Return the requests per second of the load's first requests, run one at a time.

    Raises RoseinferError if none of them meets the objective: at any rate, requests are at most as fast as alone.
    """
    alone = _run_one_by_one(engine, cell, clock)
    if not any(slo.is_met_by(each) for each in alone):
        raise RoseinferError(f"no --request-rate meets {slo}: requests that ran alone had {slo.medians(alone)}")
    return len(alone) / sum(each.e2e_s or 0.0 for each in alone)


def _run_one_by_one(engine: Engine, cell: Cell, clock: Clock) -> list[RequestFigures]:
    """Run the first requests of a load one at a time: each arrives when the previous one has finished.

    They run in one pass, so that shared prefixes are found in the prefix cache as under load.
    """
    load = [planned for planned in plan_load(cell.workload, cell.sampling, engine) if planned.continues is None]
    load = [replace(planned, arrival_s=0.0) for planned in load[:_NUM_SEQUENTIAL]]
    limit = cell.max_batch_size or engine.limits.max_batch_size
    one_by_one = with_batch_limit(engine, min(limit, max(planned.params.n for planned in load)))
    warm_up(one_by_one, cell.mode, load, clock)
    figures = []
    ended_s = 0.0
    for _, samples in groupby(
        request_figures(timed_pass(one_by_one, cell.mode, load, clock), 0), key=lambda each: each.request_id
    ):
        of_one = [replace(each, arrival_s=max(ended_s, each.arrival_s)) for each in samples]
        ended_s = max([ended_s, *(each.token_times_s[-1] for each in of_one if each.token_times_s)])
        figures += of_one
    return figures


def cell_with(cell: Cell, parameter: Parameter, value: float) -> Cell:
    """Return the configuration with another batch limit or request rate."""
    if parameter == "request_rate":
        return replace(cell, workload=replace(cell.workload, request_rate=value))
    requests = max(int(value), cell.workload.num_requests or 1)
    return replace(cell, max_batch_size=int(value), workload=replace(cell.workload, num_requests=requests))


def _option(parameter: Parameter) -> str:
    return f"--{parameter.replace('_', '-')}"


def _described(trials: Sequence[Trial]) -> str:
    return ", ".join(
        f"at {plain(trial.value, 4)}, {trial.met_percent:.0f} % of the requests met it" for trial in trials
    )
