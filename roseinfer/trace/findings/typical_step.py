"""Timeline of one typical step: its spans, the GPU's busy time, and the longest gaps."""

import numpy as np

from roseinfer.trace.facts.intervals import covered_shares, union
from roseinfer.trace.facts.job_times import JobTimes
from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.steps import typical_step
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.naming import short_name
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.step_structs import Segment, StepBusy, TypicalStep
from roseinfer.trace.summary.units import to_ms

_MAX_SPANS = 300
_MAX_GAPS = 40
_MAX_EVENTS = 300
_MAX_ROWS = 4
_PARTS = 240


def draw_typical_step(facts: Facts, groups: StepGroups, durations: JobTimes) -> TypicalStep | None:
    """Return the timeline of the median step, with its longest spans, GPU events and gaps; None without steps.

    The timeline ends with the step or with the last GPU event that the step launched, whichever is later.
    """
    step = typical_step(facts.steps, durations.of_rank_ns)
    if step is None:
        return None
    start, end = int(facts.steps.start_ns[step]), int(facts.steps.end_ns[step])
    mine = np.flatnonzero(facts.event_step == step)
    reach = max(end, int(facts.trace.gpu.end_ns[mine].max(initial=0)))
    return TypicalStep(
        step=int(groups.of_step[step]),
        phase=facts.steps.labels[step].phase,
        ms=to_ms(durations.of_rank_ns[step]),
        end_us=(reach - start) / 1000,
        spans=_spans(facts, step, start, end),
        busy=_busy(facts, mine, start, reach),
        gaps=_gaps(facts, mine, start),
    )


def _spans(facts: Facts, step: int, start: int, end: int) -> list[Segment]:
    spans = facts.spans
    inside = (spans.start_ns >= start) & (spans.end_ns <= end) & (spans.thread == facts.steps.thread[step])
    at = np.flatnonzero(inside)
    if len(at) > _MAX_SPANS:
        longest = np.argsort(spans.start_ns[at] - spans.end_ns[at], kind="stable")[:_MAX_SPANS]
        at = np.sort(at[longest])
    top = int(spans.forest.depth[at].min(initial=10**9))
    return [
        _segment(
            spans.groups[spans.group[index]],
            int(spans.forest.depth[index]) - top,
            spans.start_ns,
            spans.end_ns,
            index,
            start,
        )
        for index in at.tolist()
    ]


def _busy(facts: Facts, mine: Ints, start: int, reach: int) -> list[StepBusy]:
    gpu = facts.trace.gpu
    found: list[StepBusy] = []
    for device in np.unique(gpu.device[mine]).tolist():
        at = mine[gpu.device[mine] == device]
        low, high = union(gpu.start_ns[at], gpu.end_ns[at])
        shares = covered_shares(low, high, start, reach, _PARTS)
        found.append(StepBusy(f"GPU {facts.trace.devices[device].id}", shares, _events(facts, at, start)))
    return found


def _events(facts: Facts, at: Ints, start: int) -> list[Segment]:
    """Return the longest events of a device, each in the first row that is free when it starts.

    Events of several streams overlap. Those for which no row is free are left out.
    """
    gpu = facts.trace.gpu
    longest = at[np.argsort(gpu.start_ns[at] - gpu.end_ns[at], kind="stable")[:_MAX_EVENTS]]
    found: list[Segment] = []
    free_from = [0] * _MAX_ROWS
    for event in longest[np.argsort(gpu.start_ns[longest], kind="stable")].tolist():
        low, high = int(gpu.start_ns[event]), int(gpu.end_ns[event])
        row = next((row for row, since in enumerate(free_from) if since <= low), None)
        if row is not None and high > low:
            free_from[row] = high
            found.append(_segment(facts.trace.names[gpu.name[event]], row, gpu.start_ns, gpu.end_ns, event, start))
    return found


def _gaps(facts: Facts, mine: Ints, start: int) -> list[Segment]:
    gaps = facts.gaps
    at = np.flatnonzero(np.isin(gaps.event, mine) & (gaps.start_ns >= start))
    longest = at[np.argsort(gaps.start_ns[at] - gaps.end_ns[at], kind="stable")[:_MAX_GAPS]]
    found: list[Segment] = []
    for gap in np.sort(longest).tolist():
        edges = (gaps.start_ns[gap], gaps.late_end_ns[gap], gaps.call_end_ns[gap], gaps.end_ns[gap])
        causes = ("host late", "launch call", "device queue") if gaps.linked[gap] else ("", "", "unlinked")
        for cause, low, high in zip(causes, edges[:-1], edges[1:], strict=True):
            if high > low:
                found.append(Segment(cause, 0, (int(low) - start) / 1000, (int(high) - start) / 1000))
    return found


def _segment(name: str, row: int, low: Ints, high: Ints, index: int, start: int) -> Segment:
    return Segment(short_name(name, 60), row, (int(low[index]) - start) / 1000, (int(high[index]) - start) / 1000)
