"""Run a load once: submit its requests as they arrive, step the scheduler, and record every step."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

import msgspec

from roseinfer.config import Mode
from roseinfer.engine.engine import Engine
from roseinfer.engine.outputs import RequestOutput
from roseinfer.engine.schedulers import Scheduler
from roseinfer.engine.step_plan import StepPlan
from roseinfer.workload.clock import WALL_CLOCK, Clock
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.step_record import StepRecord


class WorkloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one pass over a load in one mode. Times are in seconds on the clock of the outputs' timestamps."""

    mode: Mode
    started_s: float
    add_s: float
    """Time inside `submit` calls."""
    run_s: float
    """Time outside `submit` calls: steps, waiting for arrivals, and `on_step`."""
    arrivals_s: list[float]
    """Arrival time per request, indexed by request id."""
    outputs: list[RequestOutput]
    steps: list[StepRecord]
    preemptions: int
    queried_tokens: int
    """Tokens of admitted requests, all of which are looked up in the prefix cache.

    A request admitted again after a preemption counts again.
    """
    cached_tokens: int
    """Tokens among `queried_tokens` that were found in the prefix cache."""


BeforeStep = Callable[[StepPlan], None]
"""Called before each step with the plan that the step will launch."""

OnStep = Callable[[StepPlan], bool | None]
"""Called after each step with the plan that the step launched. Returning False ends the pass."""


def run_load(
    engine: Engine,
    mode: Mode,
    load: Sequence[PlannedRequest],
    *,
    before_step: BeforeStep | None = None,
    on_step: OnStep | None = None,
    clock: Clock = WALL_CLOCK,
) -> WorkloadResult:
    """Submit requests to a new scheduler as they arrive, and step until all are finished.

    The prefix cache is emptied first. If `on_step` returns False, the pass ends and unfinished requests are aborted.
    """
    return _LoadPass(engine, mode, load, clock).run(before_step, on_step)


class _LoadPass:
    """State of a pass in progress."""

    def __init__(self, engine: Engine, mode: Mode, load: Sequence[PlannedRequest], clock: Clock) -> None:
        self._engine, self._mode, self._load, self._clock = engine, mode, load, clock
        self._scheduler: Scheduler = engine.scheduler(mode)
        self._started_s = clock.now_s()
        self._add_s = 0.0
        self._due: list[tuple[float, int]] = []  # heap of (arrival time, index in the load)
        self._next_turns: dict[int, int] = {}  # index in the load -> index of the next turn
        for index, planned in enumerate(load):
            if planned.continues is None:
                heappush(self._due, (self._started_s + planned.arrival_s, index))
            else:
                self._next_turns[planned.continues] = index
        self._submitted: list[tuple[int, float]] = []  # by request id: (index in the load, arrival time)
        self._histories: dict[int, list[int]] = {}  # index in the load -> token ids of the turns before
        self._outputs: list[RequestOutput] = []
        self._steps: list[tuple[StepPlan, float]] = []

    def run(self, before_step: BeforeStep | None, on_step: OnStep | None) -> WorkloadResult:
        self._engine.pool.reset_prefix_cache()
        statistics = self._engine.pool.statistics
        queried, hit = statistics.queried_tokens, statistics.hit_tokens
        is_running = True
        while is_running:
            self._submit_arrived()
            if self._scheduler.has_unfinished:
                is_running = self._step(before_step, on_step)
            elif self._due:
                self._clock.wait_until(self._due[0][0])
            else:
                break
        for request_id in range(len(self._submitted)):
            self._scheduler.abort(request_id)
        ended_s = self._clock.now_s()
        outputs = sorted(
            self._outputs + self._scheduler.take_outputs(), key=lambda out: (out.request_id, out.sample_index)
        )
        return WorkloadResult(
            mode=self._mode,
            started_s=self._started_s,
            add_s=self._add_s,
            run_s=ended_s - self._started_s - self._add_s,
            arrivals_s=[arrival_s for _, arrival_s in self._submitted],
            outputs=outputs,
            steps=[StepRecord.of(self._engine, plan, wall_s * 1e3) for plan, wall_s in self._steps],
            preemptions=self._scheduler.num_preemptions,
            queried_tokens=statistics.queried_tokens - queried,
            cached_tokens=statistics.hit_tokens - hit,
        )

    def _submit_arrived(self) -> None:
        while self._due and self._due[0][0] <= self._clock.now_s():
            arrival_s, index = heappop(self._due)
            planned = self._load[index]
            prompt = planned.prompt
            if planned.continues is not None:
                prompt = [*self._histories.pop(index), *self._engine.encode(prompt)]
            begun_s = self._clock.now_s()
            self._scheduler.submit(prompt, planned.params)
            self._add_s += self._clock.now_s() - begun_s
            self._submitted.append((index, arrival_s))

    def _step(self, before_step: BeforeStep | None, on_step: OnStep | None) -> bool:
        self._scheduler.step(before_step)
        self._steps += self._scheduler.take_steps()  # their costs are computed after the pass, outside its time
        if self._next_turns:
            self._continue_conversations()
        plan = self._scheduler.last_plan
        return on_step is None or plan is None or on_step(plan) is not False

    def _continue_conversations(self) -> None:
        """Schedule the arrival of the next turn of each conversation whose turn the last step finished."""
        for output in self._scheduler.take_outputs():
            self._outputs.append(output)
            index = self._submitted[output.request_id][0]
            if output.sample_index == 0 and index in self._next_turns:
                self._histories[self._next_turns[index]] = output.prompt_token_ids + output.token_ids
                heappush(self._due, (self._clock.now_s(), self._next_turns.pop(index)))
