"""Say which records of a trace are missing, and whether so much is missing that no verdict can rest on the rest."""

import re

import numpy as np

from roseinfer.trace.facts.blind_waits import synchronizes
from roseinfer.trace.facts.intervals import union_length
from roseinfer.trace.facts.lost_launches import LostLaunches, dropped_launches, find_lost_launches
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.recorded_time import recorded_ns
from roseinfer.trace.facts.replay_repeats import compare_replays
from roseinfer.trace.facts.stream_overlap import find_overlaps
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.findings.trace_contents import lost_gpu
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.completeness_structs import Completeness, GraphCapture, MissingKind, MissingRecords
from roseinfer.trace.summary.units import to_ms, to_percent

DECISIVE_SHARE = 0.1
"""Share of launches, replays or GPU events without records from which a verdict cannot be trusted."""
DECISIVE_WAIT_SHARE = 0.2
"""Share of the recording in which the host waits for unrecorded work from which a verdict cannot be trusted."""
_NOTED_SHARE = 0.02
"""Share of launches without a GPU event that is normal: copies and fills of no bytes start nothing."""
_NOTED_WAIT_SHARE = 0.01
"""Share of the recording in which the host waits for unrecorded work that is not worth a note."""
_GPU_OPERATOR = re.compile(r"^aten::.*(?:cudnn|miopen|cuda|_efficient_attention|_flash_attention_forward)")
"""Operators whose kernels exist on GPUs only."""


def find_missing(facts: Facts) -> Completeness:
    """Return all kinds of missing records, decisive ones first, and the graph captures."""
    missing = [
        *_truncated_file(facts),
        *_impossible_times(facts),
        *_gpu_not_recorded(facts),
        *_unanswered_launches(facts),
        *_differing_replays(facts),
        *_blind_waits(facts),
        *_overlapping_kernels(facts),
        *_unlinked_events(facts),
    ]
    return Completeness(
        complete=not any(one.decisive for one in missing),
        missing=sorted(missing, key=lambda one: not one.decisive),
        capture=_capture(facts),
    )


def _truncated_file(facts: Facts) -> list[MissingRecords]:
    trace = facts.trace
    if not trace.truncated:
        return []
    return [
        MissingRecords(
            kind="file_truncated",
            what=f"The file is incomplete: {trace.truncated}. The summary covers what could be read.",
            count=1,
            from_ms=None,
            to_ms=None,
            decisive=len(trace.gpu) == 0 and lost_gpu(trace) is not None,
        )
    ]


def _impossible_times(facts: Facts) -> list[MissingRecords]:
    trace = facts.trace
    if not trace.counts.dropped:
        return []
    counts, lost = trace.counts, len(trace.dropped_gpu)
    what = "Left out 1 event with an impossible time"
    if counts.dropped > 1:
        what = f"Left out {counts.dropped:,} events with impossible times"
    if counts.zero_times:
        some = "all" if counts.zero_times == counts.dropped else f"{counts.zero_times:,}"
        what += f", {some} at the time 0" if counts.dropped > 1 else ", at the time 0"
    at = np.flatnonzero(dropped_launches(facts.trace, facts.launches))
    start, end = _times(facts, at) if len(at) else (None, None)
    if lost:
        what += ": " if lost == counts.dropped else ", among them "
        what += _place(at, len(facts.launches)) if len(at) else counted(lost, "GPU event")
    return [
        MissingRecords(
            kind="impossible_times",
            what=f"{what}.",
            count=counts.dropped,
            from_ms=start,
            to_ms=end,
            decisive=lost > 0 and lost >= DECISIVE_SHARE * (lost + len(trace.gpu)),
        )
    ]


def _place(at: Ints, size: int) -> str:
    """Say where some launches are among all launches, which are in order of time."""
    total = f"{len(at):,} of {counted(size, 'launch')}"
    if at[-1] - at[0] < len(at) < size:
        if at[0] == 0:
            return f"the GPU events of the first {total}, the head of the recording"
        if at[-1] == size - 1:
            return f"the GPU events of the last {total}, the tail of the recording"
    return f"the GPU events of {total}"


def _gpu_not_recorded(facts: Facts) -> list[MissingRecords]:
    """Return the whole GPU side if none of it is recorded although work was launched or operators need a GPU."""
    trace, launches = facts.trace, facts.launches
    if len(trace.gpu) or len(trace.dropped_gpu):
        return []
    run = np.flatnonzero(~launches.is_captured)
    start: float | None = None
    end: float | None = None
    if len(run):
        found, count = counted(len(run), "launch"), len(run)
        start, end = _times(facts, run)
    elif len(launches) == 0 and (operators := _operators_of_gpus(facts)):
        found, count = f"{counted(operators, 'operator call')} that only a GPU runs", operators
    elif len(launches) == 0 and len(waits := _long_waits(facts)):
        found, count = f"{counted(len(waits), 'call')} in which the host waits for a GPU", len(waits)
        start, end = to_ms(int(trace.calls.start_ns[waits].min())), to_ms(int(trace.calls.end_ns[waits].max()))
    else:
        return []
    return [
        MissingRecords(
            kind="gpu_not_recorded",
            what=f"The trace holds {found} but no GPU event: the GPU side was not recorded.",
            count=count,
            from_ms=start,
            to_ms=end,
            decisive=True,
        )
    ]


def _operators_of_gpus(facts: Facts) -> int:
    """Return the number of calls of operators that run on GPUs only, such as those of cuDNN."""
    ops = facts.trace.ops
    return int(np.count_nonzero(rows_named(facts.trace.names, ops.name, lambda name: bool(_GPU_OPERATOR.search(name)))))


def _long_waits(facts: Facts) -> Ints:
    """Return the synchronizing calls, if they take so much of the recording that a GPU must have worked meanwhile."""
    calls = facts.trace.calls
    at = np.flatnonzero(rows_named(facts.trace.names, calls.name, synchronizes))
    waited_ns = int((calls.end_ns[at] - calls.start_ns[at]).sum())
    return at if waited_ns >= DECISIVE_WAIT_SHARE * recorded_ns(facts.trace) else at[:0]


def _unanswered_launches(facts: Facts) -> list[MissingRecords]:
    """Return the launches without a GPU event of each file: its head, its tail, and those in between."""
    if len(facts.trace.gpu) == 0:
        return []
    lost = find_lost_launches(facts.trace, facts.launches)
    return [record for one in lost for record in _unanswered_of_file(facts, one)]


def _unanswered_of_file(facts: Facts, lost: LostLaunches) -> list[MissingRecords]:
    is_graph = facts.launches.is_graph
    graphs, others = lost.between[is_graph[lost.between]], lost.between[~is_graph[lost.between]]
    size, graph_size = lost.launches, lost.graph_launches
    if len(lost) <= _NOTED_SHARE * size and len(graphs) <= _NOTED_SHARE * graph_size:
        return []
    many = len(lost) >= DECISIVE_SHARE * size
    total = counted(size, "launch")
    found: list[MissingRecords] = []
    if len(lost.head):
        what = f"{_lost_edge('first', len(lost.head), total)}, the head of the recording"
        found.append(_lost_launches(facts, "gpu_head", what, lost.head, many and lost.blank_head))
    if len(lost.tail):
        what = f"{_lost_edge('last', len(lost.tail), total)}, the tail of the recording"
        found.append(_lost_launches(facts, "gpu_tail", what, lost.tail, many and lost.blank_tail))
    if len(graphs):
        what = f"{len(graphs):,} of {counted(graph_size, 'graph launch')} have no GPU event"
        decisive = len(graphs) >= DECISIVE_SHARE * graph_size
        found.append(_lost_launches(facts, "graph_without_kernels", what, graphs, decisive))
    if len(others):
        what = f"{len(others):,} of {total} have no GPU event"
        decisive = len(others) >= DECISIVE_SHARE * size
        found.append(_lost_launches(facts, "launch_without_event", what, others, decisive))
    return found


def _lost_edge(edge: str, count: int, total: str) -> str:
    if count == 1:
        return f"The GPU event of the {edge} of {total} is missing"
    return f"The GPU events of the {edge} {count:,} of {total} are missing"


def _lost_launches(facts: Facts, kind: MissingKind, what: str, at: Ints, decisive: bool) -> MissingRecords:
    start, end = _times(facts, at)
    return MissingRecords(
        kind=kind,
        what=f"{what}, launched {duration(start)} to {duration(end)} into the recording.",
        count=len(at),
        from_ms=start,
        to_ms=end,
        decisive=decisive,
    )


def _differing_replays(facts: Facts) -> list[MissingRecords]:
    found = compare_replays(facts.trace, facts.attribution, facts.launches, facts.steps)
    if not found.different:
        return []
    return [
        MissingRecords(
            kind="graph_replays_differ",
            what=f"Replays of one graph have {found.fewest_events:,} to {found.most_events:,} GPU events, in "
            f"{found.different:,} of {counted(found.compared, 'pair')} of replays: some are missing.",
            count=found.different,
            from_ms=to_ms(found.from_ns),
            to_ms=to_ms(found.to_ns),
            decisive=found.different >= DECISIVE_SHARE * found.compared,
        )
    ]


def _blind_waits(facts: Facts) -> list[MissingRecords]:
    waits, trace = facts.blind_waits, facts.trace
    wall_ns = recorded_ns(trace)
    if len(waits) == 0 or waits.total_ns < _NOTED_WAIT_SHARE * wall_ns:
        return []
    worst = int(np.argmax(waits.end_ns - waits.start_ns))
    call = trace.names[int(trace.calls.name[waits.call[worst]])]
    where = f"in {call}" if len(waits) == 1 else f"in {len(waits):,} calls, longest in {call},"
    return [
        MissingRecords(
            kind="gpu_during_wait",
            what=f"The host waits {duration(to_ms(waits.total_ns))} {where} while no GPU event runs: the GPU did work "
            "that is not in the trace.",
            count=len(waits),
            from_ms=to_ms(int(waits.start_ns[0])),
            to_ms=to_ms(int(waits.end_ns[-1])),
            decisive=waits.total_ns >= DECISIVE_WAIT_SHARE * wall_ns,
        )
    ]


def _overlapping_kernels(facts: Facts) -> list[MissingRecords]:
    """Return the kernels that overlap on a stream. They decide nothing, since no time counts twice."""
    found = find_overlaps(facts.trace, facts.attribution)
    overlap_ns = int(found.overlap_ns.sum())
    if overlap_ns <= _NOTED_SHARE * found.checked_ns:
        return []
    starts = facts.trace.gpu.start_ns[found.event]
    kernels = "1 kernel runs" if len(found.event) == 1 else f"{len(found.event):,} kernels run"
    return [
        MissingRecords(
            kind="overlapping_kernels",
            what=f"{kernels} at the same time as an earlier kernel of the stream, {duration(to_ms(overlap_ns))} in "
            "total. A stream runs one kernel at a time: times or streams in the trace are wrong.",
            count=len(found.event),
            from_ms=to_ms(int(starts.min())),
            to_ms=to_ms(int(facts.trace.gpu.end_ns[found.event].max())),
            decisive=False,
        )
    ]


def _unlinked_events(facts: Facts) -> list[MissingRecords]:
    """Return the GPU events without a launch. They count as work all the same, so they never decide the result."""
    linked, starts = facts.attribution.linked, facts.trace.gpu.start_ns
    lost = int(np.count_nonzero(~linked))
    if lost == 0:
        return []
    what = f"{lost:,} of {len(linked):,} GPU events ({to_percent(lost, len(linked)):.0f} %) have no launch in the trace"
    first_linked = int(starts[linked].min()) if linked.any() else None
    leaked = int(np.count_nonzero(starts[~linked] < first_linked)) if first_linked is not None else 0
    if leaked > lost // 2:
        what += f". {leaked:,} of them ran before the first event with a launch: work of the warm-up leaked in"
    return [
        MissingRecords(
            kind="event_without_launch",
            what=f"{what}.",
            count=lost,
            from_ms=to_ms(int(starts[~linked].min())),
            to_ms=to_ms(int(facts.trace.gpu.end_ns[~linked].max())),
            decisive=False,
        )
    ]


def _capture(facts: Facts) -> GraphCapture | None:
    captures = facts.captures
    if len(captures) == 0:
        return None
    captured_ns = union_length(captures.start_ns, captures.end_ns)
    return GraphCapture(
        captures=len(captures),
        launches=int(np.count_nonzero(facts.launches.is_captured)),
        ms=to_ms(captured_ns),
        percent=to_percent(captured_ns, recorded_ns(facts.trace)),
        from_ms=to_ms(int(captures.start_ns.min())),
        to_ms=to_ms(int(captures.end_ns.max())),
    )


def _times(facts: Facts, at: Ints) -> tuple[float, float]:
    """Return the start of the first and the end of the last of some launches, in ms."""
    calls, call = facts.trace.calls, facts.launches.call[at]
    return to_ms(int(calls.start_ns[call].min())), to_ms(int(calls.end_ns[call].max()))
