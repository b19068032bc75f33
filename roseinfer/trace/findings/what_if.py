"""Upper bounds on what changes could save, assuming that each change is perfect and costs nothing."""

import numpy as np

from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.summary.finding_structs import WhatIf
from roseinfer.trace.summary.units import to_ms, to_percent

_SPANS = 3
_MIN_EVENTS_PER_CALL = 8
_MIN_SHARE = 0.02
_FEW_LAUNCHES = 4
"""Launches per step up to which a step is close to one launch, so that no bound is given for one launch per step."""


def bounds(facts: Facts, gpu: GpuSummary | None) -> list[WhatIf]:
    """Return how much each change would shorten the GPU's window; changes that save at most 2 % are left out."""
    if gpu is None or gpu.window_ms == 0:
        return []
    cause = gpu.idle_by_cause
    found = [
        _bound("removing all host-late gaps", cause.host_late_ms, gpu.window_ms),
        _bound(_no_launch_gaps(facts, gpu), cause.host_late_ms + cause.launch_call_ms, gpu.window_ms),
        *_one_kernel_each(facts, gpu),
        _bound("removing all idle time", gpu.idle_ms, gpu.window_ms),
    ]
    return [bound for bound in found if bound.saves_ms > _MIN_SHARE * gpu.window_ms]


def _no_launch_gaps(facts: Facts, gpu: GpuSummary) -> str:
    if 0 < gpu.launches <= _FEW_LAUNCHES * len(facts.steps):
        return "removing all host-late and launch-call gaps"
    return "one launch per step, without host-late and launch-call gaps"


def _one_kernel_each(facts: Facts, gpu: GpuSummary) -> list[WhatIf]:
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
            name = f"one kernel per call of {spans.groups[group]}"
            rows.append(_bound(name, to_ms(int(saved[at].sum())), gpu.window_ms))
    return sorted(rows, key=lambda row: -row.saves_ms)[:_SPANS]


def _bound(change: str, saves_ms: float, window_ms: float) -> WhatIf:
    left = window_ms - saves_ms
    return WhatIf(
        change=change,
        saves_ms=round(saves_ms, 6),
        saves_percent=to_percent(saves_ms, window_ms),
        speedup=round(window_ms / left, 2) if left > 0 else 0.0,
    )
