"""Parts of the time budget, numbered, and the part that each activity of a host thread belongs to."""

import re
from typing import get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.activity_labels import NO_LABEL, ActivityLabels
from roseinfer.trace.facts.host_activity import Activity, pageable_copies, waits
from roseinfer.trace.facts.idle_pieces import DEVICE_QUEUE, HOST_LATE, UNLINKED, IdlePieces
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints32
from roseinfer.trace.summary.budget_structs import IdleCause

PARTS = ("compute", "exposed_communication", "exposed_copy", *get_args(IdleCause))
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
    """Part of the budget for every label and call of host threads."""

    of_label: NDArray[np.int8]
    """Part per label of `ActivityLabels`."""
    is_copy: NDArray[np.bool_]
    """Per activity: true for asynchronous copies during which the host waits. One more entry is for no activity."""

    def of(self, pieces: IdlePieces, label: Ints32, loads_data: NDArray[np.bool_]) -> NDArray[np.int8]:
        """Return the part of each piece of idle time; `loads_data` is true for pieces inside data loading."""
        part = self.of_label[label]
        part[self.is_copy[pieces.owner]] = SYNC
        part[loads_data & (pieces.cause == HOST_LATE)] = DATA
        part[pieces.cause == DEVICE_QUEUE] = QUEUE
        part[pieces.cause == UNLINKED] = NOT_RECORDED
        return part


def host_parts(facts: Facts, activity: Activity, labels: ActivityLabels) -> HostParts:
    """Sort labels into operators and runtime calls, and the latter into waits, allocation, and other calls."""
    names = facts.trace.names
    parts = [
        OPERATORS if not is_call else part_of_call(names[name])
        for name, is_call in zip(labels.name.tolist(), labels.is_call.tolist(), strict=True)
    ]
    parts[NO_LABEL] = PYTHON
    is_copy = np.zeros(len(activity.name) + 1, np.bool_)
    is_copy[activity.of_call[pageable_copies(facts.trace, facts.attribution)]] = True
    is_copy[-1] = False
    return HostParts(of_label=np.array(parts, np.int8), is_copy=is_copy)


def part_of_call(name: str) -> int:
    """Return the part of a runtime or driver call: ALLOCATION, SYNC if the host waits in it, else CALLS."""
    if allocates(name):
        return ALLOCATION
    return SYNC if waits(name) else CALLS


def allocates(name: str) -> bool:
    """True for runtime and driver calls that allocate, map or free memory of the device or pinned memory."""
    return bool(_ALLOCATION.match(name)) and not _NO_ALLOCATION.search(name)
