"""Idle time ranked by cause, by what the launching thread was doing, and by span."""

from typing import Literal

import numpy as np

from roseinfer.trace.activity import waits
from roseinfer.trace.columns import Ints
from roseinfer.trace.facts import Facts
from roseinfer.trace.innermost import Pieces, cut_by_innermost, innermost_at
from roseinfer.trace.step_stats import steps_at
from roseinfer.trace.summary import NO_SPAN, GapGroup, to_ms, to_percent

_MAX_GROUPS = 40

Cause = Literal["host_late", "launch_call", "device_queue", "unlinked"]
Doing = Literal["sync", "op", "call", "python", "queue", "unknown"]


def rank_gaps(facts: Facts) -> list[GapGroup]:
    """Groups of idle time, the longest first; at most 40, which together are at most the idle time."""
    gaps = facts.gaps
    none = gaps.call_end_ns
    parts: tuple[tuple[Cause, Ints, Ints], ...] = (
        ("host_late", gaps.start_ns, gaps.late_end_ns),
        ("launch_call", gaps.late_end_ns, gaps.call_end_ns),
        ("device_queue", gaps.call_end_ns, np.where(gaps.linked, gaps.end_ns, none)),
        ("unlinked", gaps.start_ns, np.where(gaps.linked, gaps.start_ns, gaps.end_ns)),
    )
    groups = [group for cause, start, end in parts for group in _groups_of(facts, cause, start, end)]
    groups.sort(key=lambda group: -group.ms)
    return groups[:_MAX_GROUPS]


def _groups_of(facts: Facts, cause: Cause, start: Ints, end: Ints) -> list[GapGroup]:
    """The groups of one cause, whose parts of the gaps are [start, end)."""
    at = np.flatnonzero(end > start)
    if len(at) == 0:
        return []
    spans, activity = facts.spans, facts.activity
    pieces = _pieces(facts, cause, start[at], end[at], at)
    begin = _begins(pieces, start[at])
    thread = facts.attribution.thread[facts.gaps.event[at]][pieces.stretch]
    span = innermost_at(spans.forest, spans.thread, thread, begin)
    span_group = np.append(spans.group, -1)[span].astype(np.int64)
    name = np.append(activity.name, -1)[pieces.owner].astype(np.int64)
    is_call = np.append(activity.call, -1)[pieces.owner] >= 0
    key = (span_group * 2 + is_call) * (len(facts.trace.names) + 1) + name
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    total = np.bincount(group, weights=pieces.length_ns)
    distinct = np.unique(group * len(at) + pieces.stretch) // len(at)
    count = np.bincount(distinct, minlength=len(first))
    order = np.lexsort((pieces.length_ns, group))
    longest = order[np.append(np.flatnonzero(np.diff(group[order])), len(order) - 1)]
    in_step = steps_at(facts.steps, begin[longest]).tolist()
    idle_ns = int((facts.gaps.end_ns - facts.gaps.start_ns).sum())
    rows: list[GapGroup] = []
    for index, piece in enumerate(first.tolist()):
        doing, label = _doing(facts, cause, int(name[piece]), bool(is_call[piece]))
        rows.append(
            GapGroup(
                cause=cause,
                doing=doing,
                name=label,
                span=spans.groups[int(span_group[piece])] if span_group[piece] >= 0 else NO_SPAN,
                ms=to_ms(total[index]),
                percent=to_percent(total[index], idle_ns),
                gaps=int(count[index]),
                longest_us=round(int(pieces.length_ns[longest[index]]) / 1000, 3),
                longest_step=in_step[index] if in_step[index] >= 0 else None,
            )
        )
    return rows


def _pieces(facts: Facts, cause: Cause, start: Ints, end: Ints, at: Ints) -> Pieces:
    """The stretches, in order; only time for which the host is to blame is cut by what the host was doing."""
    activity, attribution = facts.activity, facts.attribution
    event = facts.gaps.event[at]
    if cause == "host_late":
        found = cut_by_innermost(activity.forest, activity.thread, attribution.thread[event], start, end)
        order = np.argsort(found.stretch, kind="stable")
        return Pieces(*(column[order] for column in found))
    owner = np.full(len(at), -1, np.int64)
    if cause == "launch_call":
        position = np.argsort(activity.call, kind="stable")
        owner = position[np.searchsorted(activity.call[position], attribution.launch[event])]
    return Pieces(np.arange(len(at)), owner, end - start)


def _begins(pieces: Pieces, start: Ints) -> Ints:
    """[pieces] when each piece begins: its stretch's start plus the pieces of the stretch before it."""
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
