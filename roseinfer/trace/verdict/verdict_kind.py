"""Choose the kind of verdict: the largest share of the wall time that somebody can reduce."""

from typing import Literal, NamedTuple

from roseinfer.trace.summary.budget_structs import TimeBudget
from roseinfer.trace.summary.trace_summary import VerdictKind
from roseinfer.trace.summary.units import to_percent
from roseinfer.trace.verdict.thresholds import BOUND_PERCENT, HEALTHY_PERCENT, LARGE_PERCENT

ReducibleCause = Literal["host", "data", "communication", "waiting", "copy", "queue", "not_recorded"]

_KINDS: dict[ReducibleCause, VerdictKind] = {
    "host": "host_bound",
    "data": "data_bound",
    "communication": "communication_bound",
    "waiting": "imbalanced",
    "copy": "copy_bound",
}


class Shares(NamedTuple):
    """Shares of the wall time in percent."""

    compute: float
    reducible: dict[ReducibleCause, float]
    """Everything but computation, the largest share first."""

    @property
    def largest(self) -> ReducibleCause:
        """Cause of the largest reducible share."""
        return next(iter(self.reducible))


def shares_of(budget: TimeBudget, waits_ms: float = 0.0, unrecorded_ms: float = 0.0) -> Shares:
    """Return what a budget's wall time consists of.

    `waits_ms` is the part of the exposed communication in which ranks wait for each other; `unrecorded_ms` the part in
    which they wait for ranks whose recording has not begun.
    """
    host = budget.host_ms
    own_ms = host.synchronizing_calls + host.allocation + host.launch_calls + host.operators + host.python
    parts: dict[ReducibleCause, float] = {
        "host": own_ms,
        "data": host.data_loading,
        "communication": budget.exposed_communication_ms - waits_ms - unrecorded_ms,
        "waiting": waits_ms,
        "copy": budget.exposed_copy_ms,
        "queue": budget.queue_ms,
        "not_recorded": budget.not_recorded_ms + unrecorded_ms,
    }
    shares = {cause: to_percent(ms, budget.wall_ms) for cause, ms in parts.items()}
    ranked = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Shares(to_percent(budget.compute_ms, budget.wall_ms), ranked)


def kind_of(shares: Shares) -> VerdictKind:
    """Return the kind of verdict on a run with a device.

    `gpu_bound` if everything but computation takes less than 10 %. Otherwise the largest cause gives the kind if all
    causes together take at least 30 %, or this one 20 %. Everything else is balanced, and so are runs that mostly wait
    in the device's queue or for reasons that are not recorded.
    """
    lost, largest = sum(shares.reducible.values()), shares.reducible[shares.largest]
    if lost <= 0 and shares.compute <= 0:
        return "balanced"
    if lost < HEALTHY_PERCENT:
        return "gpu_bound"
    if lost >= BOUND_PERCENT or largest >= LARGE_PERCENT:
        return _KINDS.get(shares.largest, "balanced")
    return "balanced"
