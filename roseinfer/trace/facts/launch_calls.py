"""Find the runtime calls that launch work on a device, and whether the trace holds the work of each of them.

A launch that a stream records into a CUDA graph starts no work: its kernels run when the graph is replayed. Such
captured launches are told from launches whose GPU events are missing.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution, is_graph_launch
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.reading.columns import Ints, Trace

_LAUNCHES = (
    "launchkernel",
    "kernellaunch",
    "graphlaunch",
    "memcpyasync",
    "memcpywithstream",
    "memsetasync",
    "launchcooperative",
    "enqueueusmmemcpy",
    "enqueueusmfill",
    "runfunction",
)
"""Parts of the names of launch calls on CUDA, HIP, XPU and MTIA devices, in lower case."""
_BEGIN_CAPTURE, _END_CAPTURE = "streambegincapture", "streamendcapture"


class Captures(msgspec.Struct, frozen=True, eq=False):
    """Times in which a stream recorded launches into a graph. Every array has one entry per capture."""

    start_ns: Ints
    end_ns: Ints

    def __len__(self) -> int:
        return len(self.start_ns)

    def hold(self, at_ns: Ints) -> NDArray[np.bool_]:
        """Return, per instant, True if a capture was in progress."""
        opened = np.searchsorted(np.sort(self.start_ns), at_ns, side="right")
        closed = np.searchsorted(np.sort(self.end_ns), at_ns, side="right")
        return np.asarray(opened > closed, np.bool_)


class Launches(msgspec.Struct, frozen=True, eq=False):
    """The launch calls of a trace in order of time. Every array has one entry per launch call."""

    call: Ints
    """Index into `trace.calls`."""
    is_answered: NDArray[np.bool_]
    """True if the trace holds a GPU event with the correlation id of the call."""
    is_captured: NDArray[np.bool_]
    """True if the call was recorded into a graph instead of being run."""
    is_graph: NDArray[np.bool_]
    """True for launches of whole graphs."""

    def __len__(self) -> int:
        return len(self.call)


def find_captures(trace: Trace) -> Captures:
    """Find the stream captures of each thread. A capture without begin or end reaches to that end of the recording."""
    calls = trace.calls
    begins, ends = _calls_named(trace, _BEGIN_CAPTURE), _calls_named(trace, _END_CAPTURE)
    starts: list[int] = []
    stops: list[int] = []
    last_ns = int(calls.end_ns.max(initial=0))
    for thread in np.unique(calls.thread[np.concatenate((begins, ends))]).tolist():
        began = calls.start_ns[begins[calls.thread[begins] == thread]]
        ended = calls.end_ns[ends[calls.thread[ends] == thread]]
        if len(ended) and (len(began) == 0 or ended[0] < began[0]):
            starts.append(0)
            stops.append(int(ended[0]))
        after = np.searchsorted(ended, began, side="right")
        starts += began.tolist()
        stops += np.append(ended, last_ns)[after].tolist()
    return Captures(np.array(starts, np.int64), np.array(stops, np.int64))


def find_launches(trace: Trace, attribution: Attribution, captures: Captures) -> Launches:
    """Find all calls that launch work: those of known names, and those of a name that mostly launches work here."""
    calls = trace.calls
    answered = attribution.answered
    total, with_work = (
        np.bincount(calls.name),
        np.bincount(calls.name[answered], minlength=calls.name.max(initial=-1) + 1),
    )
    mostly = 2 * with_work > total
    chosen = rows_named(trace.names, calls.name, _is_launch) | mostly[calls.name]
    at = np.flatnonzero(chosen)
    at = at[np.argsort(calls.start_ns[at], kind="stable")]
    return Launches(
        call=at,
        is_answered=answered[at],
        is_captured=captures.hold(calls.start_ns[at]) & ~answered[at],
        is_graph=rows_named(trace.names, calls.name[at], is_graph_launch),
    )


def _is_launch(name: str) -> bool:
    lower = name.lower()
    if lower.startswith("ze"):  # Level Zero's part of a launch that the runtime call around it stands for
        return False
    return any(word in lower for word in _LAUNCHES)


def _calls_named(trace: Trace, word: str) -> Ints:
    """Return the calls whose names contain a word, as indices in order of (thread, time)."""
    return np.flatnonzero(rows_named(trace.names, trace.calls.name, lambda name: word in name.lower()))
