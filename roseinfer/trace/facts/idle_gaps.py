"""Find the gaps in which a GPU ran nothing, and split each gap by cause.

During a gap, no stream of the device runs any event. The launch of the event that ends the gap splits it in three.
Before the launch call the host is late; during the call, the call takes the time; after the call, the device's queue
holds the event back. If the launch is not in the trace, the gap is unlinked: its cause is unknown.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.reading.columns import Ints, Trace


class Gaps(msgspec.Struct, frozen=True, eq=False):
    """The gaps of all devices. Every array has one entry per gap; the parts of a gap by cause add up to the gap."""

    start_ns: Ints
    end_ns: Ints
    device: NDArray[np.int32]
    event: Ints
    """Index of the GPU event that ends the gap."""
    linked: NDArray[np.bool_]
    """True if the launch of that GPU event is in the trace."""
    late_end_ns: Ints
    """End of the gap's first part, in which the host is late."""
    call_end_ns: Ints
    """End of the gap's second part, the launch call. The rest of the gap is time in the device's queue."""

    @property
    def host_late_ns(self) -> Ints:
        """Per gap: time before the launch call began."""
        return self.late_end_ns - self.start_ns

    @property
    def launch_call_ns(self) -> Ints:
        """Per gap: time inside the launch call."""
        return self.call_end_ns - self.late_end_ns

    @property
    def device_queue_ns(self) -> Ints:
        """Per gap: time after the launch call."""
        return np.where(self.linked, self.end_ns - self.call_end_ns, 0)

    @property
    def unlinked_ns(self) -> Ints:
        """Per gap: the whole gap if its launch is not in the trace, else 0."""
        return np.where(self.linked, 0, self.end_ns - self.start_ns)


def find_gaps(trace: Trace, attribution: Attribution) -> Gaps:
    """Find the gaps of every device between its first and its last event."""
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
    """Return, per GPU event, the latest end of the event and all earlier events of its device."""
    reach = trace.gpu.end_ns.copy()
    for device in range(len(trace.devices)):
        low, high = np.searchsorted(trace.gpu.device, (device, device + 1))
        reach[low:high] = np.maximum.accumulate(reach[low:high])
    return reach
