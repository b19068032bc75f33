"""Work of one device as sorted, disjoint intervals: compute, communication and copies, each with what it hides."""

import msgspec
import numpy as np

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.facts.intervals import covered_before, union
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.reading.columns import KERNEL, Ints, Trace


class DeviceWork(msgspec.Struct, frozen=True, eq=False):
    """Busy time of one device. The three sets of intervals include each other, in this order."""

    compute: tuple[Ints, Ints]
    """Starts and ends of the time in which kernels other than collectives ran."""
    kernels: tuple[Ints, Ints]
    """Starts and ends of the time in which any kernels ran, collectives too."""
    busy: tuple[Ints, Ints]
    """Starts and ends of the time in which anything ran, copies too."""
    collectives: Ints
    """Indices of the collectives in the GPU table."""
    copies: Ints
    """Indices of memcpys and memsets in the GPU table."""


def device_work(trace: Trace, device: int) -> DeviceWork:
    """Return the busy time of one device, by kind of work."""
    gpu = trace.gpu
    low, high = np.searchsorted(gpu.device, (device, device + 1))
    start, end = gpu.start_ns[low:high], gpu.end_ns[low:high]
    kernel = gpu.kind[low:high] == KERNEL
    collective = kernel & rows_named(trace.names, gpu.name[low:high], is_collective)
    computing = kernel & ~collective
    return DeviceWork(
        compute=union(start[computing], end[computing]),
        kernels=union(start[kernel], end[kernel]),
        busy=union(start, end),
        collectives=low + np.flatnonzero(collective),
        copies=low + np.flatnonzero(~kernel),
    )


def exposed_ns(start_ns: Ints, end_ns: Ints, hidden_by: tuple[Ints, Ints], since_ns: int) -> Ints:
    """Return, per event, its time after `since_ns` that neither other work nor an earlier event covers.

    Events are sorted by start; over all events the times add up to the union of the events outside `hidden_by`.
    """
    return outside(hidden_by, *own_time(start_ns, end_ns, since_ns))


def own_time(start_ns: Ints, end_ns: Ints, since_ns: int) -> tuple[Ints, Ints]:
    """Return (begin, end) per event: its time after `since_ns` and after all earlier events; events sorted by start."""
    begin = np.maximum(start_ns, since_ns)
    begin[1:] = np.maximum(begin[1:], np.maximum.accumulate(end_ns)[:-1])
    return begin, np.maximum(end_ns, begin)


def outside(hidden_by: tuple[Ints, Ints], begin_ns: Ints, end_ns: Ints) -> Ints:
    """Return, per interval, its length outside some other intervals, which are sorted and disjoint."""
    hidden = covered_before(*hidden_by, end_ns) - covered_before(*hidden_by, begin_ns)
    return np.asarray(end_ns - begin_ns - hidden, np.int64)
