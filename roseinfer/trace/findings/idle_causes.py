"""Idle time of the GPU, grouped by cause, by what the launching thread was doing, and by span."""

from collections import defaultdict
from typing import Literal

import msgspec
import numpy as np

from roseinfer.trace.facts.host_activity import Activity, waits
from roseinfer.trace.facts.innermost import Pieces, cut_by_innermost
from roseinfer.trace.facts.intervals import distinct
from roseinfer.trace.facts.steps import steps_at
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.finding_structs import NO_SPAN, GapGroup
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_GROUPS = 100
_BATCH = 1 << 15
"""Number of gaps processed together, which bounds the memory for their pieces."""

Cause = Literal["host_late", "launch_call", "device_queue", "unlinked"]
Doing = Literal["sync", "op", "call", "python", "queue", "unknown"]


class _GapSum(msgspec.Struct):
    """Idle time, number of gaps and longest gap of one group, so far."""

    total_ns: int = 0
    gaps: int = 0
    longest_ns: int = 0
    longest_at_ns: int = 0


_GapKey = tuple[Cause, int, int, bool]
"""Key of a group of gaps: (cause, index in `spans.groups`, index in `trace.names`, True for a runtime call).

The last two describe what the launching thread was running during the gap: an operator or a runtime call; the name
index is -1 if it was running neither.
"""


def rank_gaps(facts: Facts, activity: Activity) -> list[GapGroup]:
    """Group the idle time by cause, activity of the launching thread, and span; return the 100 longest groups."""
    gaps = facts.gaps
    sums: defaultdict[_GapKey, _GapSum] = defaultdict(_GapSum)
    for low in range(0, len(gaps.start_ns), _BATCH):
        batch = slice(low, low + _BATCH)
        start, late, call, end = (
            column[batch] for column in (gaps.start_ns, gaps.late_end_ns, gaps.call_end_ns, gaps.end_ns)
        )
        linked, event = gaps.linked[batch], gaps.event[batch]
        _add(sums, facts, activity, "host_late", start, late, event)
        _add(sums, facts, activity, "launch_call", late, call, event)
        _add(sums, facts, activity, "device_queue", call, np.where(linked, end, call), event)
        _add(sums, facts, activity, "unlinked", start, np.where(linked, start, end), event)
    ranked = sorted(sums.items(), key=lambda item: -item[1].total_ns)[:_MAX_GROUPS]
    idle_ns = int((gaps.end_ns - gaps.start_ns).sum())
    return [_group(facts, key, found, idle_ns) for key, found in ranked]


def _add(
    sums: defaultdict[_GapKey, _GapSum],
    facts: Facts,
    activity: Activity,
    cause: Cause,
    start: Ints,
    end: Ints,
    event: Ints,
) -> None:
    """Add the parts [start, end) of some gaps, which all have the same cause, to their groups."""
    some = end > start
    start, end, event = start[some], end[some], event[some]
    if len(event) == 0:
        return
    pieces = _pieces(facts, activity, cause, start, end, event)
    begin = _begins(pieces, start)
    pieces, begin, span = _cut_by_span(facts, cause, pieces, begin, event)
    span_group = np.append(facts.spans.group, -1)[span].astype(np.int64)
    owned = np.flatnonzero(pieces.owner >= 0)
    name, is_call = np.full(len(begin), -1, np.int64), np.zeros(len(begin), np.bool_)
    name[owned], is_call[owned] = activity.name[pieces.owner[owned]], activity.call[pieces.owner[owned]] >= 0
    key = (span_group * 2 + is_call) * (len(facts.trace.names) + 1) + name
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    total = np.bincount(group, weights=pieces.length_ns)
    count = np.bincount(distinct(group * len(event) + pieces.stretch) // len(event), minlength=len(first))
    order = np.lexsort((pieces.length_ns, group))
    longest = order[np.append(np.flatnonzero(np.diff(group[order])), len(order) - 1)]
    for index, piece in enumerate(first.tolist()):
        found = sums[cause, int(span_group[piece]), int(name[piece]), bool(is_call[piece])]
        found.total_ns += int(total[index])
        found.gaps += int(count[index])
        if pieces.length_ns[longest[index]] > found.longest_ns:
            found.longest_ns = int(pieces.length_ns[longest[index]])
            found.longest_at_ns = int(begin[longest[index]])


def _group(facts: Facts, key: _GapKey, found: _GapSum, idle_ns: int) -> GapGroup:
    cause, span_group, name, is_call = key
    doing, label = _doing(facts, cause, name, is_call)
    step = int(steps_at(facts.steps, np.array([found.longest_at_ns]))[0])
    return GapGroup(
        cause=cause,
        doing=doing,
        name=label,
        span=facts.spans.groups[span_group] if span_group >= 0 else NO_SPAN,
        ms=to_ms(found.total_ns),
        percent=to_percent(found.total_ns, idle_ns),
        gaps=found.gaps,
        longest_us=round(found.longest_ns / 1000, 3),
        longest_step=step if step >= 0 else None,
    )


def _pieces(facts: Facts, activity: Activity, cause: Cause, start: Ints, end: Ints, event: Ints) -> Pieces:
    """Return the pieces of the stretches [start, end), in order of time.

    Only host-late time is cut by what the launching thread was doing. Other stretches are one piece each.
    """
    attribution = facts.attribution
    if cause == "host_late":
        found = cut_by_innermost(activity.forest, activity.thread, attribution.thread[event], start, end)
        return _in_order(found)
    owner = np.full(len(event), -1, np.int64)
    if cause == "launch_call":
        owner = activity.of_call[attribution.launch[event]].astype(np.int64)
    return Pieces(np.arange(len(event)), owner, end - start)


def _cut_by_span(facts: Facts, cause: Cause, pieces: Pieces, begin: Ints, event: Ints) -> tuple[Pieces, Ints, Ints]:
    """Return (pieces, start of each piece in ns, innermost span of each piece).

    Host-late and launch-call time is cut by the span that the launching thread was in. Other time counts for the span
    around the launch.
    """
    spans, attribution = facts.spans, facts.attribution
    if cause not in ("host_late", "launch_call"):
        return pieces, begin, attribution.span[event][pieces.stretch]
    thread = attribution.thread[event][pieces.stretch]
    found = _in_order(cut_by_innermost(spans.forest, spans.thread, thread, begin, begin + pieces.length_ns))
    cut = Pieces(pieces.stretch[found.stretch], pieces.owner[found.stretch], found.length_ns)
    return cut, _begins(found, begin), found.owner


def _in_order(pieces: Pieces) -> Pieces:
    """Sort the pieces by stretch; the pieces of one stretch stay in order of time."""
    order = np.argsort(pieces.stretch, kind="stable")
    return Pieces(*(column[order] for column in pieces))


def _begins(pieces: Pieces, start: Ints) -> Ints:
    """Return the start of each piece in ns. `start` has the start of each stretch that the pieces were cut from.

    Pieces are sorted by stretch, and those of one stretch follow each other without gaps.
    """
    before = np.cumsum(pieces.length_ns) - pieces.length_ns
    first = np.searchsorted(pieces.stretch, np.arange(len(start)))
    begins: Ints = start[pieces.stretch] + before - before[first][pieces.stretch]
    return begins


def _doing(facts: Facts, cause: Cause, name: int, is_call: bool) -> tuple[Doing, str]:
    if cause == "device_queue":
        return "queue", "waiting in the device's queue"
    if cause == "unlinked":
        return "unknown", "launch not in the trace"
    if name < 0:
        return "python", "Python"
    label = facts.trace.names[name]
    if is_call:
        return ("sync" if waits(label) else "call"), label
    return "op", label
