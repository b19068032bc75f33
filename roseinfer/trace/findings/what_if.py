"""Upper bounds on what changes could save, assuming that each change is perfect and costs nothing."""

import msgspec
import numpy as np

from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.summary.budget_structs import BudgetSummary
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.summary.finding_structs import WhatIf
from roseinfer.trace.summary.rank_structs import JobSummary
from roseinfer.trace.summary.units import to_ms, to_percent

_SPANS = 3
_MIN_EVENTS_PER_CALL = 8
_MIN_SHARE = 0.02
_FEW_LAUNCHES = 4
"""Launches per step up to which a step is close to one launch, so that no bound is given for one launch per step."""


def bounds(
    facts: Facts, gpu: GpuSummary | None, budget: BudgetSummary | None, job: JobSummary | None = None
) -> list[WhatIf]:
    """Return how much each change would shorten the wall time; changes that save at most 2 % are left out."""
    if budget is None:
        return []
    total = budget.total
    found = [
        _bound("data_ahead", "loading all data ahead of time", total.host_ms.data_loading, total.wall_ms),
        _bound(
            "hidden_communication",
            "hiding all communication behind computation",
            total.exposed_communication_ms,
            total.wall_ms,
        ),
        _bound(
            "collectives_at_once",
            "starting every collective on all ranks at once",
            job.exposed_wait_ms if job else 0.0,
            total.wall_ms,
        ),
        _bound("hidden_copies", "hiding all copies behind computation", total.exposed_copy_ms, total.wall_ms),
    ]
    if gpu is not None:
        host_ms = sum(msgspec.structs.astuple(total.host_ms))
        launch_call_ms = min(gpu.idle_by_cause.launch_call_ms, host_ms)
        found = [
            _bound("no_host_late_gaps", "removing all host-late gaps", host_ms - launch_call_ms, total.wall_ms),
            _bound(*_no_launch_gaps(facts, gpu), host_ms, total.wall_ms),
            *_one_kernel_each(facts, total.wall_ms),
            *found,
            _bound("no_idle_time", "removing all idle time", host_ms + total.queue_ms, total.wall_ms),
        ]
    return [bound for bound in found if bound.saves_ms > _MIN_SHARE * total.wall_ms]


def _no_launch_gaps(facts: Facts, gpu: GpuSummary) -> tuple[str, str]:
    """Return (id, change) of the bound without time between launches."""
    if 0 < gpu.launches <= _FEW_LAUNCHES * len(facts.steps):
        return "no_launch_gaps", "removing all host-late and launch-call gaps"
    return "one_launch_per_step", "one launch per step, without host-late and launch-call gaps"


def _one_kernel_each(facts: Facts, wall_ms: float) -> list[WhatIf]:
    """Return the bounds if each call of a span were one kernel: the three largest, without step spans."""
    spans, forest = facts.spans, facts.spans.across_threads
    if not len(spans):
        return []
    idle = forest.add_to_ancestors(facts.costs.idle_ns[:-1])
    events = forest.add_to_ancestors(facts.costs.gpu_events[:-1])
    is_step = np.isin(spans.start_ns, facts.steps.start_ns) | np.char.startswith(
        np.array(spans.groups, np.str_)[spans.group], "ProfilerStep"
    )
    # One launch per call remains, so one event's share of the idle time is not saved.
    saved = np.where(events > 0, idle * (events - 1) // np.maximum(events, 1), 0)
    rows: list[WhatIf] = []
    for group in range(len(spans.groups)):
        at = np.flatnonzero((spans.group == group) & forest.outermost(spans.group) & ~is_step)
        if len(at) and events[at].sum() >= _MIN_EVENTS_PER_CALL * len(at):
            name = spans.groups[group]
            saves_ms = min(to_ms(int(saved[at].sum())), wall_ms)
            rows.append(_bound(f"one_kernel_per_call|{name}", f"one kernel per call of {name}", saves_ms, wall_ms))
    return sorted(rows, key=lambda row: -row.saves_ms)[:_SPANS]


def _bound(name: str, change: str, saves_ms: float, wall_ms: float) -> WhatIf:
    left = wall_ms - saves_ms
    return WhatIf(
        id=name,
        change=change,
        saves_ms=round(saves_ms, 6),
        saves_percent=to_percent(saves_ms, wall_ms),
        speedup=round(wall_ms / left, 2) if left > 0 else 0.0,
    )
