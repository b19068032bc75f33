"""What host threads were doing: their operators and runtime calls as one nesting, and the names of calls that wait."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.columns import Ints, Trace
from roseinfer.trace.nesting import Forest, nest

_WAITS = ("synchronize", "cudamemcpy", "hipmemcpy", "cumemcpy", "cudafree", "hipfree", "cudamalloc", "hipmalloc")
_NO_WAIT = ("async", "streamwaitevent", "mallocasync", "freeasync")


class Activity(msgspec.Struct, frozen=True, eq=False):
    """Operators and runtime calls of some threads, sorted by (thread, start, longest first)."""

    forest: Forest
    thread: NDArray[np.int32]
    name: NDArray[np.int32]
    """Index into `trace.names`."""
    call: Ints
    """Index into `trace.calls`, -1 for operators."""

    def operator_around(self, index: int) -> int:
        """The name index of the innermost operator around an activity, -1 for none."""
        above = int(self.forest.parent[index])
        while above >= 0 and self.call[above] >= 0:
            above = int(self.forest.parent[above])
        return int(self.name[above]) if above >= 0 else -1


def activity_of(trace: Trace, threads: NDArray[np.int32]) -> Activity:
    """The activity of the given threads."""
    ops, calls = trace.ops, trace.calls
    op = np.flatnonzero(np.isin(ops.thread, threads))
    call = np.flatnonzero(np.isin(calls.thread, threads))
    start = np.concatenate((ops.start_ns[op], calls.start_ns[call]))
    end = np.concatenate((ops.end_ns[op], calls.end_ns[call]))
    thread = np.concatenate((ops.thread[op], calls.thread[call]))
    order = np.lexsort((-end, start, thread))
    name = np.concatenate((ops.name[op], calls.name[call]))[order]
    which = np.concatenate((np.full(len(op), -1, np.int64), call))[order]
    thread = thread[order]
    return Activity(forest=nest(start[order], end[order], thread), thread=thread, name=name, call=which)


def waits(call: str) -> bool:
    """Whether a runtime call of this name can make the host wait for the device."""
    name = call.lower()
    return any(word in name for word in _WAITS) and not any(word in name for word in _NO_WAIT)
