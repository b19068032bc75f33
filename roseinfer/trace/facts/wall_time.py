"""The wall time that the budget splits: of each step, and of the whole recording of each file."""

import msgspec
import numpy as np

from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32


class WallTime(msgspec.Struct, frozen=True, eq=False):
    """Wall time of steps and recordings, in ns.

    A step lasts until the next step on its thread begins. The last one lasts until its span has ended, and all GPU
    events that it launched. A recording lasts from its first step's start, or its first event, to the end of all work.
    """

    step_start_ns: Ints
    step_end_ns: Ints
    step_file: Ints32
    """Per step: index of the file in which the step was recorded."""
    start_ns: Ints
    """Per file: start of the recording."""
    end_ns: Ints
    """Per file: end of the recording."""


def wall_time(facts: Facts) -> WallTime:
    """Return the wall time of every step and of every file."""
    trace, steps = facts.trace, facts.steps
    thread_files = np.array(trace.thread_files, np.int32)
    step_end = _step_ends(facts)
    step_file = thread_files[steps.thread] if len(steps) else np.zeros(0, np.int32)
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
    return WallTime(step_start_ns=steps.start_ns, step_end_ns=step_end, step_file=step_file, start_ns=start, end_ns=end)


def _step_ends(facts: Facts) -> Ints:
    """Return the end of each step's wall time."""
    steps = facts.steps
    end = steps.end_ns.copy()
    for thread in np.unique(steps.thread).tolist():
        at = np.flatnonzero(steps.thread == thread)
        end[at[:-1]] = steps.start_ns[at[1:]]
        launched = facts.trace.gpu.end_ns[facts.event_step == at[-1]]
        end[at[-1]] = max(int(end[at[-1]]), int(launched.max(initial=0)))
    return end
