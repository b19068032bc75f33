"""Find the launches whose GPU events are missing: at the head of a recording, at its tail, and in between.

A missing head or tail is harmless if the trace shows what the GPU did at that time: the launched work then ran before
or after the recording. It is blank time, without any GPU event, that makes figures wrong.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.launch_calls import Launches
from roseinfer.trace.reading.columns import NO_CORRELATION, Ints, Ints32, Trace

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
    if answered.all():
        return LostLaunches(at[:0], at[:0], at[:0], False, False, size, int(np.count_nonzero(launches.is_graph[at])))
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
    starts: list[int] = []
    ends: list[int] = []
    for table in (trace.ops, trace.spans, trace.calls):
        for low, high in _slices(table.thread, trace.thread_files, file):
            starts.append(int(table.start_ns[low]))
            ends.append(int(table.end_ns[low:high].max()))
    first, last = min(starts), max(ends)  # a file with launches has calls
    on_gpu = _slices(trace.gpu.device, trace.device_files, file)
    gpu_first = min((int(trace.gpu.start_ns[low]) for low, _ in on_gpu), default=last)
    gpu_last = max((int(trace.gpu.end_ns[low:high].max()) for low, high in on_gpu), default=0)
    return min(first, gpu_first), max(last, gpu_last), gpu_first, gpu_last


def _slices(lane: Ints32, lane_files: list[int], file: int) -> list[tuple[int, int]]:
    """Return the rows of one file, (low, high) per lane, of a table that is sorted by lane: a thread or a device."""
    lanes = [index for index, one in enumerate(lane_files) if one == file]
    bounds = ((int(low), int(high)) for low, high in (np.searchsorted(lane, (one, one + 1)) for one in lanes))
    return [(low, high) for low, high in bounds if high > low]
