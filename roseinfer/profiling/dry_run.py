"""How many steps a workload takes, found by scheduling it without computing anything."""

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
    """What a step would compute."""

    phase: Phase
    batch: int


def planned_steps(engine: Engine, mode: Mode, load: Sequence[PlannedRequest]) -> list[PlannedStep]:
    """The steps of one pass, when nothing ends a completion early and all requests are there from the start."""
    scheduler = engine.scheduler(mode)
    prompts: list[list[int]] = []
    requests: list[Request] = []
    for planned in load:
        token_ids = engine.encode(planned.prompt)
        if planned.continues is not None:
            said = load[planned.continues].params.max_new_tokens
            token_ids = prompts[planned.continues] + [0] * said + token_ids
        prompts.append(token_ids)
        endless = msgspec.structs.replace(
            planned.params, stop_on_eos=False, stop=(), stop_token_ids=(), min_new_tokens=0
        )
        for request in scheduler.make_requests(token_ids, endless):
            request.id = len(prompts) - 1
            requests.append(request)
    pool = BlockPool(engine.pool.num_blocks, engine.pool.block_size, prefix_cache=engine.pool.prefix_cache)
    return _schedule(Planner(pool, scheduler.policy(engine)), requests)


def most_steps(engine: Engine, mode: Mode, load: Sequence[PlannedRequest]) -> int:
    """No pass can take more steps: where requests arrive over time, each might run alone."""
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
        # A token that no other request has: what is drawn must not look like a shared prefix.
        scheduler.commit(plan, [-1 - chunk.request.id for chunk in plan.chunks if chunk.samples])
        steps.append(PlannedStep(plan.phase, len(plan.chunks)))
    return steps
