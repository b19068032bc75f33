"""The wall time that the budget splits: of each step, and of the whole recording of each file."""

import msgspec
import numpy as np

from roseinfer.trace.facts.step_labels import OWN_STEPS
from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints


class WallTime(msgspec.Struct, frozen=True, eq=False):
    """Wall time of steps and recordings, in ns.

    A step lasts until the next step on its thread begins. The last one lasts until its span has ended, and all GPU
    events that it launched. A recording lasts from its first step's start, or its first event, to the end of all work.

    A host that runs ahead begins a step while the GPU still runs the one before. The time until the last GPU event of
    the earlier step has ended then belongs to the earlier step, if the steps are roseinfer's own, of several phases,
    and end in the order in which they began.
    """

    step_start_ns: Ints
    step_end_ns: Ints
    start_ns: Ints
    """Per file: start of the recording."""
    end_ns: Ints
    """Per file: end of the recording."""
    has_own_work: bool
    """True if no step was begun while the GPU still ran an earlier one, or if the steps are split by their GPU work."""


def wall_time(facts: Facts) -> WallTime:
    """Return the wall time of every step and of every file."""
    trace, steps = facts.trace, facts.steps
    thread_files = np.array(trace.thread_files, np.int32)
    step_start, step_end, has_own_work = _step_windows(facts)
    step_file = facts.step_file
    files = len(trace.file_ranks)
    start, end = np.full(files, np.iinfo(np.int64).max), np.full(files, np.iinfo(np.int64).min)
    np.minimum.at(start, step_file, steps.start_ns)
    np.maximum.at(end, step_file, step_end)
    marked = end >= start
    device_files = np.array(trace.device_files, np.int32)
    for device, file in enumerate(device_files.tolist()):
        low, high = np.searchsorted(trace.gpu.device, (device, device + 1))
        if high > low:
            end[file] = max(end[file], int(trace.gpu.end_ns[low:high].max()))
            if not marked[file]:
                start[file] = min(start[file], int(trace.gpu.start_ns[low]))
    spans = facts.spans
    host = (
        (trace.ops.thread, trace.ops.start_ns, trace.ops.end_ns),
        (trace.calls.thread, trace.calls.start_ns, trace.calls.end_ns),
        (spans.thread, spans.start_ns, spans.end_ns),
    )
    for thread, starts, ends in host:
        for file in np.flatnonzero(~marked).tolist():
            for one in np.flatnonzero(thread_files == file).tolist():
                low, high = np.searchsorted(thread, (one, one + 1))
                if high > low:
                    start[file] = min(start[file], int(starts[low]))
                    end[file] = max(end[file], int(ends[low:high].max()))
    empty = end < start
    start[empty] = end[empty] = 0
    return WallTime(
        step_start_ns=step_start,
        step_end_ns=step_end,
        start_ns=start,
        end_ns=end,
        has_own_work=has_own_work,
    )


def _step_windows(facts: Facts) -> tuple[Ints, Ints, bool]:
    """Return start and end of the wall time of each step, and whether it has the step's own GPU work.

    On a thread, each step starts where the one before ends.
    """
    steps, times = facts.steps, facts.step_times
    start, end = steps.start_ns.copy(), steps.end_ns + times.tail_ns
    threads = [np.flatnonzero(steps.thread == thread) for thread in np.unique(steps.thread).tolist()]
    is_split_by_work = _are_of_several_phases(steps) and all(bool(np.all(np.diff(end[at]) > 0)) for at in threads)
    for at in threads:
        if is_split_by_work:
            start[at[1:]] = np.maximum(start[at[1:]], end[at[:-1]])
        end[at[:-1]] = start[at[1:]]
    return start, end, is_split_by_work or not times.is_ahead.any()


def _are_of_several_phases(steps: Steps) -> bool:
    """Return whether a phase would get time of another one if a host that runs ahead began its steps early.

    Spans of other engines are left alone, because they may not contain all launches of a step, such as those of its
    sampling.
    """
    return steps.source == OWN_STEPS and len({label.phase for label in steps.labels}) > 1
