"""Sending a workload through a scheduler, and what that took."""

import time
from collections.abc import Callable, Sequence

import msgspec

from roseinfer.config import Mode, SamplingParams
from roseinfer.costs.step import plan_cost
from roseinfer.engine.core import Prompt
from roseinfer.engine.engine import Engine
from roseinfer.engine.request import RequestOutput
from roseinfer.engine.scheduler import Phase, StepPlan


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one step computed."""

    phase: Phase
    batch: int
    tokens: int
    """New tokens, over all requests."""
    context_tokens: int
    """Tokens that attention read, the new ones included."""
    bytes: int
    """What it had to move; see `costs.step`."""
    flops: int
    """What it had to compute."""
    wall_ms: float


class WorkloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One pass of a workload through one mode."""

    mode: Mode
    add_s: float
    """Inside `submit` calls."""
    run_s: float
    """All the rest: stepping, and what `on_step` took."""
    outputs: list[RequestOutput]
    steps: list[StepRecord]
    preemptions: int


def run_workload(
    engine: Engine,
    mode: Mode,
    prompts: Sequence[Prompt],
    params: SamplingParams,
    *,
    before_step: Callable[[StepPlan], None] | None = None,
    on_step: Callable[[StepRecord], bool | None] | None = None,
) -> WorkloadResult:
    """Submit all prompts to a fresh scheduler and step until they are done, or until `on_step` returns False.

    The prefix cache is empty at the start. `before_step` gets what the next step is going to compute. A pass that
    `on_step` ends aborts what is unfinished.
    """
    engine.pool.reset_prefix_cache()
    scheduler = engine.scheduler(mode)
    started_s = time.perf_counter()
    request_ids = [scheduler.submit(prompt, params) for prompt in prompts]
    added_s = time.perf_counter()
    steps: list[StepRecord] = []
    while scheduler.has_unfinished:
        if before_step is not None:
            before_step(scheduler.next_plan())
        step_s = time.perf_counter()
        scheduler.step()
        wall_ms = (time.perf_counter() - step_s) * 1e3
        plan = scheduler.last_plan
        assert plan is not None
        cost = plan_cost(engine.model_config, engine.runner.cache.data.element_size(), plan)
        record = StepRecord(
            phase=plan.phase,
            batch=len(plan.chunks),
            tokens=plan.num_tokens,
            context_tokens=plan.num_context_tokens,
            bytes=cost.bytes,
            flops=cost.flops,
            wall_ms=wall_ms,
        )
        steps.append(record)
        if on_step is not None and on_step(record) is False:
            break
    for request_id in request_ids:
        scheduler.abort(request_id)
    return WorkloadResult(
        mode=mode,
        add_s=added_s - started_s,
        run_s=time.perf_counter() - added_s,
        outputs=scheduler.take_outputs(),
        steps=steps,
        preemptions=scheduler.num_preemptions,
    )
