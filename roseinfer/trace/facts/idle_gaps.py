"""When a GPU had nothing to do, and why.

A gap lies between two stretches in which at least one stream of the device ran something. It is split against the
launch of the event that ends it: before the launch call began the host was late; inside the call, the call itself
took that long; after it, the device's queue held the event back. Without a launch in the trace it stays unexplained.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.reading.columns import Ints, Trace


class Gaps(msgspec.Struct, frozen=True, eq=False):
    """The gaps of all devices; the four parts of a gap follow each other and add up to it."""

    start_ns: Ints
    end_ns: Ints
    device: NDArray[np.int32]
    event: Ints
    """[gaps] the GPU event that ends the gap."""
    linked: NDArray[np.bool_]
    late_end_ns: Ints
    """[gaps] the host is late from `start_ns` to here."""
    call_end_ns: Ints
    """[gaps] the launch call runs from `late_end_ns` to here, the device's queue from here to `end_ns`."""

    @property
    def host_late_ns(self) -> Ints:
        """[gaps]"""
        return self.late_end_ns - self.start_ns

    @property
    def launch_call_ns(self) -> Ints:
        """[gaps]"""
        return self.call_end_ns - self.late_end_ns

    @property
    def device_queue_ns(self) -> Ints:
        """[gaps]"""
        return np.where(self.linked, self.end_ns - self.call_end_ns, 0)

    @property
    def unlinked_ns(self) -> Ints:
        """[gaps]"""
        return np.where(self.linked, 0, self.end_ns - self.start_ns)


def find_gaps(trace: Trace, attribution: Attribution) -> Gaps:
    """The gaps of every device between its first and its last event."""
    gpu = trace.gpu
    reach = _reach(trace)
    event = np.flatnonzero(gpu.start_ns[1:] > reach[:-1]) + 1
    event = event[gpu.device[event] == gpu.device[event - 1]]
    start, end = reach[event - 1], gpu.start_ns[event]
    linked = attribution.linked[event]
    late_end = np.where(linked, np.clip(attribution.launch_start_ns[event], start, end), start)
    call_end = np.where(linked, np.clip(attribution.launch_end_ns[event], late_end, end), start)
    return Gaps(
        start_ns=start,
        end_ns=end,
        device=gpu.device[event],
        event=event,
        linked=linked,
        late_end_ns=late_end,
        call_end_ns=call_end,
    )


def _reach(trace: Trace) -> Ints:
    """[gpu] the latest end of this event and all earlier ones of its device."""
    reach = trace.gpu.end_ns.copy()
    for device in range(len(trace.devices)):
        low, high = np.searchsorted(trace.gpu.device, (device, device + 1))
        reach[low:high] = np.maximum.accumulate(reach[low:high])
    return reach
