"""How many steps a workload takes, found by scheduling it without computing anything."""

import dataclasses
from collections.abc import Sequence

import msgspec

from roseinfer.cache.block_pool import BlockPool
from roseinfer.config import Mode, SamplingParams
from roseinfer.engine.core import Prompt
from roseinfer.engine.engine import Engine
from roseinfer.engine.request import Request
from roseinfer.engine.scheduler import Phase, Scheduler


@dataclasses.dataclass(frozen=True)
class PlannedStep:
    """What a step would compute."""

    phase: Phase
    batch: int


def planned_steps(engine: Engine, mode: Mode, prompts: Sequence[Prompt], params: SamplingParams) -> list[PlannedStep]:
    """The steps of one pass, when nothing ends a completion early: no more can come than these."""
    scheduler = engine.scheduler(mode)
    endless = msgspec.structs.replace(params, stop_on_eos=False, stop=(), stop_token_ids=(), min_new_tokens=0)
    requests = [request for prompt in prompts for request in scheduler.make_requests(prompt, endless)]
    pool = BlockPool(engine.pool.num_blocks, engine.pool.block_size, prefix_cache=engine.pool.prefix_cache)
    return _schedule(Scheduler(pool, scheduler.policy(engine.config)), requests)


def _schedule(scheduler: Scheduler, requests: list[Request]) -> list[PlannedStep]:
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
