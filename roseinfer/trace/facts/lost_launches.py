"""Find the launches whose GPU events are missing: at the head of a recording, at its tail, and in between.

A missing head or tail is harmless if the trace shows what the GPU did at that time: the launched work then ran before
or after the recording. It is blank time, without any GPU event, that makes figures wrong.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.launch_calls import Launches
from roseinfer.trace.reading.columns import NO_CORRELATION, Ints, Trace

_RUN = 3
"""Fewest launches in a row that count as a missing head or tail if they leave blank time, or if others are lost too."""
_BLANK_SHARE = 0.1
"""Share of the recording without a GPU event from which a missing head or tail leaves blank time."""


class LostLaunches(msgspec.Struct, frozen=True, eq=False):
    """The launches of one file without a GPU event, as indices into `Launches`, in order of time."""

    head: Ints
    tail: Ints
    between: Ints
    blank_head: bool
    """True if no GPU event runs for long after the first launch of the head."""
    blank_tail: bool
    """True if no GPU event runs for long after the first launch of the tail."""
    launches: int
    """Number of launches that were run, with a GPU event or without."""
    graph_launches: int
    """Number of graph launches among them."""

    def __len__(self) -> int:
        return len(self.head) + len(self.tail) + len(self.between)


def find_lost_launches(trace: Trace, launches: Launches) -> list[LostLaunches]:
    """Return the lost launches of each file. A launch is not lost if it was captured, or if its event has no time."""
    file = np.array(trace.thread_files, np.int64)[trace.calls.thread[launches.call]]
    run = ~launches.is_captured & ~dropped_launches(trace, launches)
    return [
        _lost_in_file(trace, launches, one, np.flatnonzero(run & (file == one))) for one in range(len(trace.file_ranks))
    ]


def dropped_launches(trace: Trace, launches: Launches) -> NDArray[np.bool_]:
    """Return, per launch, True if its GPU event was left out because of an impossible time."""
    ids = trace.dropped_gpu[trace.dropped_gpu != NO_CORRELATION]
    if len(ids) == 0:
        return np.zeros(len(launches), np.bool_)
    return np.isin(trace.calls.correlation[launches.call], ids) & ~launches.is_answered


def _lost_in_file(trace: Trace, launches: Launches, file: int, at: Ints) -> LostLaunches:
    """Sort the lost launches of one file, of which `at` are the launches that were run."""
    answered, size = launches.is_answered[at], len(at)
    head = int(np.argmax(answered)) if answered.any() else size
    tail = int(np.argmax(answered[::-1])) if head < size else 0
    first, last, gpu_first, gpu_last = _edges(trace, file)
    starts = trace.calls.start_ns[launches.call[at]]
    limit = _BLANK_SHARE * (last - first)
    blank_head = head > 0 and gpu_first - int(starts[0]) >= limit
    blank_tail = tail > 0 and last - max(gpu_last, int(starts[size - tail])) >= limit
    is_scattered = not answered[head : size - tail].all()
    head = 0 if head < _RUN and (blank_head or is_scattered) else head
    tail = 0 if tail < _RUN and (blank_tail or is_scattered) else tail
    middle = at[head : size - tail]
    return LostLaunches(
        head=at[:head],
        tail=at[size - tail :],
        between=middle[~launches.is_answered[middle]],
        blank_head=blank_head,
        blank_tail=blank_tail,
        launches=size,
        graph_launches=int(np.count_nonzero(launches.is_graph[at])),
    )


def _edges(trace: Trace, file: int) -> tuple[int, int, int, int]:
    """Return (first start, last end, first start on a GPU, last end on a GPU) of the events of one file, in ns."""
    of_thread = np.array(trace.thread_files, np.int64) == file
    of_device = np.array(trace.device_files, np.int64) == file
    starts, ends = [], []
    for table in (trace.ops, trace.spans, trace.calls):
        rows = of_thread[table.thread] if len(table) else np.zeros(0, np.bool_)
        starts.append(int(table.start_ns[rows].min(initial=np.iinfo(np.int64).max)))
        ends.append(int(table.end_ns[rows].max(initial=0)))
    gpu = of_device[trace.gpu.device] if len(trace.gpu) else np.zeros(0, np.bool_)
    gpu_first = int(trace.gpu.start_ns[gpu].min(initial=max(ends)))
    gpu_last = int(trace.gpu.end_ns[gpu].max(initial=0))
    return min(*starts, gpu_first), max(*ends, gpu_last), gpu_first, gpu_last
