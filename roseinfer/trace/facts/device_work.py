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
    reach = np.maximum.accumulate(end_ns) if len(end_ns) else end_ns
    begin = np.maximum(start_ns, since_ns)
    begin[1:] = np.maximum(begin[1:], reach[:-1])
    end = np.maximum(end_ns, begin)
    hidden = covered_before(*hidden_by, end) - covered_before(*hidden_by, begin)
    return np.asarray(end - begin - hidden, np.int64)
