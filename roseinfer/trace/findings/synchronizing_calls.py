"""Calls that made the host wait for the device, also those that do not look like it: item, nonzero, pageable copies."""

import numpy as np

from roseinfer.trace.facts.host_activity import Activity, pageable_copies, waits
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import MEMCPY, Ints
from roseinfer.trace.summary.finding_structs import NO_SPAN, Sync
from roseinfer.trace.summary.units import to_ms

_MAX_ROWS = 30

_NOTES = (
    ("aten::item", "the host waits for a value; keep the value on the device, or read it one step late"),
    ("_local_scalar_dense", ".item() or a Python truth test of a tensor makes the host wait for the value"),
    ("nonzero", "the host waits for the size of the result"),
    ("masked_select", "the host waits for the size of the result"),
    ("unique", "the host waits for the size of the result"),
    ("repeat_interleave", "the host waits for the size of the result; pass output_size instead"),
    ("_assert_async", "the check reads a tensor's value"),
)


def find_syncs(facts: Facts, activity: Activity) -> list[Sync]:
    """Return the calls that wait, grouped by call, operator and span, the most expensive group first.

    The device synchronization that the profiler itself makes at the end of a recording is left out.
    """
    at = _waiting(facts, activity)
    if len(at) == 0:
        return []
    trace, spans = facts.trace, facts.spans
    start, end = activity.forest.start_ns[at], activity.forest.end_ns[at]
    span = spans.innermost_at(activity.thread[at], start)
    copies = _copy_names(facts)
    rows: dict[tuple[str, str, str], list[int]] = {}
    for index, (one, name) in enumerate(zip(at.tolist(), spans.names(span, NO_SPAN), strict=True)):
        around = activity.operator_around(one)
        op = trace.names[around] if around >= 0 else "Python"
        call = trace.names[int(activity.name[one])]
        copy = copies.get(int(activity.call[one]))
        rows.setdefault((f"{call}: {copy}" if copy else call, op, name), []).append(index)
    found = [
        Sync(
            call=call,
            op=op,
            span=name,
            count=len(members),
            per_step=round(len(members) / len(facts.steps), 3) if len(facts.steps) else None,
            ms=to_ms(int((end[members] - start[members]).sum())),
            note=note_on(call, op),
        )
        for (call, op, name), members in rows.items()
    ]
    return sorted(found, key=lambda sync: -sync.ms)[:_MAX_ROWS]


def _waiting(facts: Facts, activity: Activity) -> Ints:
    """Return the indices of the activities that wait."""
    trace = facts.trace
    names = np.unique(activity.name[activity.call >= 0]).tolist()
    waiting = [name for name in names if waits(trace.names[name]) and "alloc" not in trace.names[name].lower()]
    chosen = np.isin(activity.name, waiting) | np.isin(activity.call, pageable_copies(trace, facts.attribution))
    at = np.flatnonzero(chosen & (activity.call >= 0))
    if len(at) == 0:
        return at
    last = at[np.argmax(activity.forest.start_ns[at])]
    is_device = "devicesynchronize" in trace.names[int(activity.name[last])].lower()
    no_op_inside = activity.operator_around(int(last)) < 0
    nothing_later = not np.any(activity.forest.start_ns > activity.forest.start_ns[last])
    return at[at != last] if is_device and no_op_inside and nothing_later else at


def _copy_names(facts: Facts) -> dict[int, str]:
    """Return the kind of copy that each copying call made, such as `DtoH (Device -> Pageable)`."""
    trace, attribution = facts.trace, facts.attribution
    at = np.flatnonzero((trace.gpu.kind == MEMCPY) & attribution.linked)
    names = [trace.names[index].removeprefix("Memcpy ") for index in trace.gpu.name[at].tolist()]
    return dict(zip(attribution.launch[at].tolist(), names, strict=True))


def note_on(call: str, op: str) -> str:
    """Return why a call by this operator waits, or how to avoid the wait."""
    for word, note in _NOTES:
        if word in op:
            return note
    if "Pageable" in call:
        return "the driver stages copies of pageable memory; pin the host tensor"
    return "the host waits until the device has finished the work launched so far"
