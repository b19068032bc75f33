"""Record of one step: what it computed, its cost, and its wall time."""

from typing import Any

import msgspec

from roseinfer.costs.step import plan_cost
from roseinfer.engine.engine import Engine
from roseinfer.engine.step_plan import Phase, StepPlan


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
    """From its launch, or the end of the step before where that was later, until its tokens were there."""

    @classmethod
    def of(cls, engine: Engine, plan: StepPlan, wall_ms: float) -> "StepRecord":
        return cls(**step_figures(engine, plan), wall_ms=wall_ms)


def step_figures(engine: Engine, plan: StepPlan) -> dict[str, Any]:
    """What is known of a step without running it: a StepRecord's fields but the time."""
    cost = plan_cost(engine.model_config, engine.dtype.itemsize, plan, engine.weight_bytes)
    return {
        "phase": plan.phase,
        "batch": len(plan.chunks),
        "tokens": plan.num_tokens,
        "context_tokens": plan.num_context_tokens,
        "bytes": cost.bytes,
        "flops": cost.flops,
    }
