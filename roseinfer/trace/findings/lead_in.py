"""How long devices waited for their first event, and whether they may have worked before."""

from typing import NamedTuple

import numpy as np

from roseinfer.trace.facts.idle_edges import follow_earlier_work
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.facts.wall_time import wall_time
from roseinfer.trace.summary.units import to_ms


class LeadIn(NamedTuple):
    """Time from the recording's start to the first event of each device, added up.

    If the first event waited in the queue, or its launch is not in the trace, the device may have run work from before
    the recording.
    """

    total_ms: float
    queued_ms: float
    """The part between the end of the first event's launch call and its start, without the other part."""
    unknown_ms: float
    """The part before first events that follow work from before the recording (`follow_earlier_work`)."""


def lead_in(facts: Facts) -> LeadIn:
    """Return how long the devices waited for their first event."""
    trace, wall, attribution = facts.trace, wall_time(facts), facts.attribution
    total_ns = queued_ns = unknown_ns = 0
    for device, file in enumerate(trace.device_files):
        low, high = np.searchsorted(trace.gpu.device, (device, device + 1)).tolist()
        if low == high:
            continue
        first, since = low, int(wall.start_ns[file])  # events of a device are in order of their start
        start = int(trace.gpu.start_ns[first])
        total_ns += max(0, start - since)
        if follow_earlier_work(facts, np.array([first]), np.array([since]))[0]:
            unknown_ns += max(0, start - since)
        else:
            queued_ns += max(0, start - max(since, int(attribution.launch_end_ns[first])))
    return LeadIn(to_ms(total_ns), to_ms(queued_ns), to_ms(unknown_ns))
