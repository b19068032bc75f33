"""Nest the operators and runtime calls of host threads together, and tell which calls wait for the device."""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.reading.columns import MEMCPY, Ints, Ints32, Trace
from roseinfer.trace.reading.event_order import event_order

_WAITS = ("synchronize", "cudamemcpy", "hipmemcpy", "cumemcpy", "cudafree", "hipfree", "cudamalloc", "hipmalloc") + (
    "queuefinish",
    "eventwait",
    "eventswait",
    "hostwait",
)  # the last four: SYCL and Level Zero on XPU, MTIA
_NO_WAIT = ("async", "streamwaitevent", "mallocasync", "freeasync", "enqueue", "append")


class Activity(msgspec.Struct, frozen=True, eq=False):
    """Operators and runtime calls of some threads: the activities, sorted by (thread, start, longest first)."""

    forest: Forest
    thread: Ints32
    """Per activity: index of its thread."""
    name: Ints32
    """Per activity: index of its name in `trace.names`."""
    call: Ints32
    """Per activity: index of the runtime call in `trace.calls`, -1 for operators."""
    of_call: Ints32
    """Per entry of `trace.calls`: index of the call's activity, -1 for calls of other threads."""

    def operators_around(self, which: slice) -> Ints32:
        """Return, for some activities, the name index of the innermost operator around each, -1 for none."""
        above = self.forest.parent[which].copy()
        calls = np.flatnonzero(above >= 0)
        while len(calls := calls[self.call[above[calls]] >= 0]):
            above[calls] = self.forest.parent[above[calls]]
            calls = calls[above[calls] >= 0]
        return np.where(above >= 0, self.name[above] if len(above) else above, -1).astype(np.int32)

    def operator_around(self, index: int) -> int:
        """Return the name index of the innermost operator around an activity, -1 for none."""
        above = int(self.forest.parent[index])
        while above >= 0 and self.call[above] >= 0:
            above = int(self.forest.parent[above])
        return int(self.name[above]) if above >= 0 else -1


def activity_of(trace: Trace, threads: Ints32) -> Activity:
    """Nest the operators and runtime calls of the given threads."""
    ops, calls = trace.ops, trace.calls
    chosen = np.zeros(len(trace.threads), np.bool_)
    chosen[threads] = True
    op, call = (np.flatnonzero(chosen[table.thread]).astype(np.int32) for table in (ops, calls))

    def both(column: str) -> NDArray[Any]:
        rows = ((getattr(ops, column), op), (getattr(calls, column), call))
        return np.concatenate([every if len(at) == len(every) else every[at] for every, at in rows])

    order = event_order(both("thread"), both("start_ns"), -both("end_ns")).astype(np.int32)
    thread = both("thread")[order]
    forest = nest(both("start_ns")[order], both("end_ns")[order], thread)
    name = both("name")[order]
    which = np.concatenate((np.full(len(op), -1, np.int32), call))[order]
    of_call = np.full(len(calls), -1, np.int32)
    at = np.flatnonzero(which >= 0)
    of_call[which[at]] = at
    return Activity(forest=forest, thread=thread, name=name, call=which, of_call=of_call)


def waits(call: str) -> bool:
    """True if a runtime call of this name can make the host wait for the device."""
    name = call.lower()
    return any(word in name for word in _WAITS) and not any(word in name for word in _NO_WAIT)


def pageable_copies(trace: Trace, attribution: Attribution) -> Ints:
    """Return the calls of asynchronous copies from or to pageable memory, as indices into `trace.calls`.

    The driver stages such copies, and for device-to-host copies the host waits.
    """
    is_pageable = rows_named(trace.names, trace.gpu.name, lambda name: "Pageable" in name)
    at = np.flatnonzero(is_pageable & (trace.gpu.kind == MEMCPY) & attribution.linked)
    return np.unique(attribution.launch[at])
