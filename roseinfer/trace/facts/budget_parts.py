"""Parts of the time budget, numbered, and the part that each activity of a host thread belongs to."""

import re

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.host_activity import Activity, pageable_copies, waits
from roseinfer.trace.facts.idle_pieces import DEVICE_QUEUE, HOST_LATE, UNLINKED, IdlePieces
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints

PARTS = (
    "compute",
    "exposed_communication",
    "exposed_copy",
    "data_loading",
    "synchronizing_calls",
    "allocation",
    "launch_calls",
    "operators",
    "python",
    "queue",
    "not_recorded",
)
"""Names of the parts; a part's number is its index."""
COMPUTE, COMMUNICATION, COPY, DATA, SYNC, ALLOCATION, CALLS, OPERATORS, PYTHON, QUEUE, NOT_RECORDED = range(len(PARTS))

_ALLOCATION = re.compile(
    r"""
    (?:cuda|hip|cu|ze|ur|musa)\w*?
    (?: malloc | free | alloc | (?:mem|host)_?(?:create|map|unmap|release|register|unregister|addressreserve) )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NO_ALLOCATION = re.compile(r"event|stream|graph|context|module|texture|surface", re.IGNORECASE)


class HostParts(msgspec.Struct, frozen=True, eq=False):
    """Part of the budget for every name and call of host threads."""

    of_call_name: NDArray[np.int8]
    """Part of runtime calls, per name of the trace."""
    copies: Ints
    """Calls of asynchronous copies during which the host waits, in ascending order."""

    def of(self, activity: Activity, pieces: IdlePieces, loads_data: NDArray[np.bool_]) -> NDArray[np.int8]:
        """Return the part of each piece of idle time; `loads_data` is true for pieces inside data loading."""
        owner = pieces.owner
        held = owner >= 0
        call = np.where(held, activity.call[owner], -1) if len(activity.call) else np.full(len(owner), -1)
        name = np.where(held, activity.name[owner], 0) if len(activity.name) else np.zeros(len(owner), np.int64)
        part = np.where(held, np.where(call >= 0, self.of_call_name[name], OPERATORS), PYTHON).astype(np.int8)
        if len(self.copies):
            part[(part == CALLS) & np.isin(call, self.copies)] = SYNC
        part[loads_data & (pieces.cause == HOST_LATE)] = DATA
        part[pieces.cause == DEVICE_QUEUE] = QUEUE
        part[pieces.cause == UNLINKED] = NOT_RECORDED
        return part


def host_parts(facts: Facts) -> HostParts:
    """Sort the runtime calls of a trace into waits, allocation, and other calls."""
    trace = facts.trace
    of_name = np.full(max(len(trace.names), 1), CALLS, np.int8)
    for index in np.unique(trace.calls.name).tolist():
        of_name[index] = part_of_call(trace.names[index])
    return HostParts(of_call_name=of_name, copies=pageable_copies(trace, facts.attribution))


def part_of_call(name: str) -> int:
    """Return the part of a runtime or driver call: ALLOCATION, SYNC if the host waits in it, else CALLS."""
    if allocates(name):
        return ALLOCATION
    return SYNC if waits(name) else CALLS


def allocates(name: str) -> bool:
    """True for runtime and driver calls that allocate, map or free memory of the device or pinned memory."""
    return bool(_ALLOCATION.match(name)) and not _NO_ALLOCATION.search(name)
