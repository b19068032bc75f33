"""Record of one step: what it computed, its cost, and its wall time."""

from typing import Any

import msgspec

from roseinfer.costs.step import plan_cost
from roseinfer.engine.engine import Engine
from roseinfer.engine.step_plan import Phase, StepPlan


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Work and wall time of one step."""

    phase: Phase
    batch: int
    tokens: int
    """New tokens, summed over requests."""
    context_tokens: int
    """Tokens whose keys and values attention read, including the new ones, summed over requests."""
    bytes: int
    """Bytes that the step had to move, as counted by `costs.step`; of several ranks, one rank's share."""
    flops: int
    """FLOPs that the step had to compute, as counted by `costs.step`; of several ranks, one rank's share."""
    wall_ms: float
    """Time from the step's launch until its tokens were available, in ms.

    If the step was launched while the previous one was running, its time starts at the end of the previous step.
    """

    @classmethod
    def of(cls, engine: Engine, plan: StepPlan, wall_ms: float) -> "StepRecord":
        return cls(**step_figures(engine, plan), wall_ms=wall_ms)


def step_figures(engine: Engine, plan: StepPlan) -> dict[str, Any]:
    """Return the fields of a StepRecord that are known before the step runs: all but the time."""
    cost = plan_cost(engine.rank_config, engine.dtype.itemsize, plan, engine.weight_bytes, engine.expert_use)
    return {
        "phase": plan.phase,
        "batch": len(plan.chunks),
        "tokens": plan.num_tokens,
        "context_tokens": plan.num_context_tokens,
        "bytes": cost.bytes,
        "flops": cost.flops,
    }
