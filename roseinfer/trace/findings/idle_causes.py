"""Idle time of the GPU, grouped by cause, by what the launching thread was doing, and by span."""

from collections import defaultdict
from typing import Literal

import numpy as np

from roseinfer.trace.facts.activity_labels import ActivityLabels
from roseinfer.trace.facts.host_activity import waits
from roseinfer.trace.facts.idle_groups import GroupSum, group_totals
from roseinfer.trace.facts.idle_pieces import IdlePieces, IdleStretches
from roseinfer.trace.facts.steps import steps_at
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.summary.finding_structs import NO_SPAN, GapGroup
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_GROUPS = 100
Cause = Literal["host_late", "launch_call", "device_queue", "unlinked"]
Doing = Literal["sync", "op", "call", "python", "queue", "unknown"]


_CAUSES: tuple[Cause, ...] = ("host_late", "launch_call", "device_queue", "unlinked")
"""Causes in the order of their numbers in `IdlePieces.cause`."""

_GapKey = tuple[Cause, int, int, bool]
"""Key of a group of gaps: (cause, index in `spans.groups`, index in `trace.names`, True for a runtime call).

The last two describe what the launching thread was running during the gap: an operator or a runtime call; the name
index is -1 if it was running neither.
"""


class GapRanking:
    """Adds up the idle time by cause, activity of the launching thread, and span, batch after batch."""

    def __init__(self, facts: Facts, labels: ActivityLabels) -> None:
        self._facts, self._labels = facts, labels
        self._sums: defaultdict[_GapKey, GroupSum] = defaultdict(GroupSum)
        _, self._kind = np.unique(labels.name * 2 + labels.is_call, return_inverse=True)

    def add(self, idle: IdleStretches, pieces: IdlePieces) -> None:
        """Add the pieces of some gaps to their groups."""
        if len(pieces) == 0:
            return
        label = self._labels.at(pieces.owner)
        span_group = np.append(self._facts.spans.group, -1)[pieces.span].astype(np.int64)
        key = ((span_group + 1) * 4 + pieces.cause) * len(self._labels) + self._kind[label]
        totals = group_totals(key, pieces.stretch, pieces.length_ns, idle.is_short[pieces.stretch], join=False)
        event = idle.event[pieces.stretch]
        for group, piece in enumerate(totals.some.tolist()):
            cause, one = _CAUSES[int(pieces.cause[piece])], int(label[piece])
            name, is_call = int(self._labels.name[one]), bool(self._labels.is_call[one])
            found = self._sums[cause, int(span_group[piece]), name, is_call]
            totals.add_to(found, group, pieces.begin_ns, event)

    def ranked(self) -> list[GapGroup]:
        """Return the 100 groups with the most idle time, the longest first."""
        gaps = self._facts.gaps
        ranked = sorted(self._sums.items(), key=lambda item: -item[1].total_ns)[:_MAX_GROUPS]
        idle_ns = int((gaps.end_ns - gaps.start_ns).sum())
        return [_group(self._facts, key, found, idle_ns) for key, found in ranked]


def _group(facts: Facts, key: _GapKey, found: GroupSum, idle_ns: int) -> GapGroup:
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
        gaps=found.stretches,
        longest_us=round(found.longest_ns / 1000, 3),
        longest_step=step if step >= 0 else None,
    )


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
