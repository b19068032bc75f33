"""Find the waits of the host during which the trace shows nothing on any device: the device ran unrecorded work.

A synchronizing call returns soon after the device has finished. If the host waits on although no recorded GPU event
runs, the records of that work are missing: they were dropped, or the trace was cut out of a longer one.
"""

import msgspec
import numpy as np

from roseinfer.trace.copy_names import copy_direction
from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.host_activity import waits
from roseinfer.trace.facts.intervals import union
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.reading.columns import MEMCPY, Ints, Trace

PENDING_NS = 1_000_000
"""Shortest wait that is unexplained although launched work was pending: far above the queue's delays."""
NOTHING_PENDING_NS = 10_000_000
"""Shortest wait that is unexplained with no launched work pending: above the time to wake up a thread."""


class BlindWaits(msgspec.Struct, frozen=True, eq=False):
    """Disjoint stretches in which the host waited and no GPU event ran. Every array has one entry per stretch."""

    start_ns: Ints
    end_ns: Ints
    call: Ints
    """Index of the waiting call in `trace.calls`."""

    def __len__(self) -> int:
        return len(self.call)

    @property
    def total_ns(self) -> int:
        """Sum of the lengths of all stretches."""
        return int((self.end_ns - self.start_ns).sum())


def find_blind_waits(trace: Trace, attribution: Attribution) -> BlindWaits:
    """Return the unexplained parts of the calls in which the host waited, in order of time."""
    none = np.zeros(0, np.int64)
    call = _waiting_calls(trace, attribution)
    call = call[trace.calls.end_ns[call] - trace.calls.start_ns[call] >= PENDING_NS]
    if len(call) == 0 or len(trace.gpu) == 0:
        return BlindWaits(none, none, none)
    idle_start, idle_end, ending_launch = _idle_of_all_devices(trace, attribution)
    parts: list[tuple[int, int, int]] = []
    reach = -1
    for one in call[np.argsort(trace.calls.start_ns[call], kind="stable")].tolist():
        low, high = max(int(trace.calls.start_ns[one]), reach), int(trace.calls.end_ns[one])
        for index in range(
            int(np.searchsorted(idle_end, low, side="right")), int(np.searchsorted(idle_start, high, side="left"))
        ):
            start, end = max(low, int(idle_start[index])), min(high, int(idle_end[index]))
            is_pending = ending_launch[index] <= start
            if end - start >= (PENDING_NS if is_pending else NOTHING_PENDING_NS):
                parts.append((start, end, one))
        reach = max(reach, high)
    columns = np.array(parts, np.int64).reshape(-1, 3)
    return BlindWaits(*columns.T)


def _waiting_calls(trace: Trace, attribution: Attribution) -> Ints:
    """Return the calls that wait for the device: synchronizing calls, and copies to the host.

    Left out are calls that allocate, and copies to the device: there, the driver may work on the host.
    """
    chosen = rows_named(trace.names, trace.calls.name, synchronizes)
    copies = (trace.gpu.kind == MEMCPY) & attribution.linked
    chosen[attribution.launch[copies & rows_named(trace.names, trace.gpu.name, _goes_to_host)]] = True
    chosen[attribution.launch[copies & rows_named(trace.names, trace.gpu.name, _goes_to_device)]] = False
    return np.flatnonzero(chosen)


def synchronizes(name: str) -> bool:
    """True if a runtime call of this name waits for the device, and does not allocate."""
    return waits(name) and not any(word in name.lower() for word in ("alloc", "free"))


def _goes_to_host(copy: str) -> bool:
    return copy_direction(copy) == "to_host"


def _goes_to_device(copy: str) -> bool:
    return copy_direction(copy) == "to_device"


def _idle_of_all_devices(trace: Trace, attribution: Attribution) -> tuple[Ints, Ints, Ints]:
    """Return (start, end, start of the launch of the event that ends it) of the times in which no device ran anything.

    The first starts and the last ends beyond all events. The launch is at the end of time if it is not recorded.
    """
    order = np.argsort(trace.gpu.start_ns, kind="stable")
    start, end = union(trace.gpu.start_ns[order], trace.gpu.end_ns[order])
    far = np.iinfo(np.int64).max
    first = order[np.searchsorted(trace.gpu.start_ns[order], start)]
    launch = np.where(attribution.linked[first], attribution.launch_start_ns[first], far)
    return np.append(-far, end), np.append(start, far), np.append(launch, far)
