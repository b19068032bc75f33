"""The steps of a workload, planned by the real planner without running the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import Mode
from roseinfer.engine.engine import Engine
from roseinfer.engine.planner import Planner
from roseinfer.engine.request import Request
from roseinfer.engine.step_plan import Phase
from roseinfer.workload.load_plan import PlannedRequest


@dataclass(frozen=True)
class PlannedStep:
    """Phase and batch size of a planned step."""

    phase: Phase
    batch: int


def planned_steps(engine: Engine, mode: Mode, load: Sequence[PlannedRequest]) -> list[PlannedStep]:
    """Return the steps of one pass in which all requests arrive at the start and no completion ends early."""
    scheduler = engine.scheduler(mode)
    prompts: list[list[int]] = []
    requests: list[Request] = []
    for planned in load:
        token_ids = engine.encode(planned.prompt)
        if planned.continues is not None:
            completion = [0] * load[planned.continues].params.max_new_tokens
            token_ids = prompts[planned.continues] + completion + token_ids
        prompts.append(token_ids)
        endless = msgspec.structs.replace(
            planned.params, stop_on_eos=False, stop=(), stop_token_ids=(), min_new_tokens=0
        )
        for request in scheduler.make_requests(token_ids, endless):
            request.id = len(prompts) - 1
            requests.append(request)
    own = engine.pool
    pool = BlockPool(own.num_blocks, own.block_size, prefix_cache=own.prefix_cache, windows=own.tables.windows)
    return _schedule(Planner(pool, scheduler.policy(engine)), requests)


def most_steps(engine: Engine, mode: Mode, load: Sequence[PlannedRequest]) -> int:
    """Return an upper bound on the steps of one pass.

    If requests arrive over time, each may run alone, so the bound is the number of steps in mode naive.
    """
    if any(planned.arrival_s > 0 or planned.continues is not None for planned in load):
        mode = "naive"
    return len(planned_steps(engine, mode, load))


def _schedule(scheduler: Planner, requests: list[Request]) -> list[PlannedStep]:
    for request in requests:
        if request.max_new_tokens:
            scheduler.add(request)
    steps: list[PlannedStep] = []
    while scheduler.has_unfinished:
        plan = scheduler.plan()
        scheduler.begin(plan)
        # A token id per request: completions must not look like a shared prefix.
        scheduler.commit(plan, [-1 - chunk.request.id for chunk in plan.chunks if chunk.samples])
        steps.append(PlannedStep(plan.phase, len(plan.chunks)))
    return steps
