"""Compare runs of different numbers of ranks: the speed-up, and where the rest of the ideal one went."""

import math

import msgspec

from roseinfer.trace.summary.comparison_structs import BudgetChange, Lost, LostTime, ScalingChange
from roseinfer.trace.summary.trace_summary import Summary

_HALF = 0.5
"""Logarithmic share of the ideal reduction of a rank's computation from which the work counts as split."""


def scaling(new: Summary, baseline: Summary, budgets: list[BudgetChange]) -> ScalingChange | None:
    """Return how a step became faster with more ranks; None for equal numbers of ranks, or without steps.

    The phase that takes most of the baseline's time is compared. If a rank computes about as long as before, each rank
    has work of its own, and the ideal step takes as long; else the work is split, and the ideal step takes as much
    less as there are more ranks.
    """
    before, after = len(baseline.trace.ranks), len(new.trace.ranks)
    known = [change for change in budgets if change.phase is not None and change.baseline.compute_ms > 0]
    if before == after or not known or baseline.budget is None:
        return None
    phases = baseline.budget.phases
    change = max(known, key=lambda one: phases[one.phase or ""].wall_ms)
    old, now = change.baseline, change.new
    ratio = after / before
    # On a logarithmic scale: is the computation of a rank nearer to 1 or to 1 / ratio of what it was?
    shrunk = math.log(old.compute_ms / now.compute_ms) / math.log(ratio) if now.compute_ms > 0 else 1.0
    is_split = shrunk > _HALF
    share = 1 / ratio if is_split else 1.0
    waits = _wait_ms(baseline, change.phase), _wait_ms(new, change.phase)
    pairs: dict[Lost, tuple[float, float]] = {
        "wait": waits,
        "transfer": (old.exposed_communication_ms - waits[0], now.exposed_communication_ms - waits[1]),
        "kernels": (old.compute_ms, now.compute_ms),
        "copies": (old.exposed_copy_ms, now.exposed_copy_ms),
        "host": (_host_ms(change, is_new=False), _host_ms(change, is_new=True)),
        "other": (old.queue_ms + old.not_recorded_ms, now.queue_ms + now.not_recorded_ms),
    }
    lost = [
        LostTime(kind, round(ms, 6), round(now_ms, 6), round(now_ms - ms * share, 6))
        for kind, (ms, now_ms) in pairs.items()
    ]
    return ScalingChange(
        phase=change.phase or "",
        ranks_before=before,
        ranks_after=after,
        work="split" if is_split else "per_rank",
        baseline_ms=old.wall_ms,
        new_ms=now.wall_ms,
        ideal_ms=round(old.wall_ms * share, 6),
        speedup=round(old.wall_ms / now.wall_ms * (1 if is_split else ratio), 3) if now.wall_ms else 0.0,
        ideal_speedup=round(ratio, 3),
        lost=lost,
    )


def _host_ms(change: BudgetChange, *, is_new: bool) -> float:
    host = (change.new if is_new else change.baseline).host_ms
    return float(sum(msgspec.structs.astuple(host)))


def _wait_ms(summary: Summary, phase: str | None) -> float:
    """Return the mean exposed wait of a rank in a step of a phase; 0 for one rank."""
    steps = [step for step in summary.job.steps if step.phase == phase] if summary.job else []
    return sum(step.wait_ms for step in steps) / len(steps) if steps else 0.0
