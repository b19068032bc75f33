"""Find the launch call of each GPU event, by correlation id, and the innermost span around the launch.

Launches of autograd's threads belong to the span that waits for the backward pass.

`gpu_user_annotation` events are not used: they repeat only the innermost span, stretched over a whole stream.
"""

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.intervals import distinct
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.span_table import SpanTable
from roseinfer.trace.reading.columns import NO_CORRELATION, Ints, Trace

UNLINKED = -1
"""Value of `Attribution.launch` for a GPU event whose launch call is not in the trace: an unlinked event."""


class Attribution(msgspec.Struct, frozen=True, eq=False):
    """Launch and span of each GPU event. Every array has one entry per GPU event, in the order of the GPU table."""

    launch: Ints
    """Index of the launch call in `trace.calls`, or UNLINKED if the trace has no launch for the event."""
    answered: NDArray[np.bool_]
    """Per entry of `trace.calls`: True if the trace holds a GPU event with the correlation id of the call."""
    launch_start_ns: Ints
    """Start of the launch call, 0 if unlinked."""
    launch_end_ns: Ints
    """End of the launch call, 0 if unlinked."""
    thread: NDArray[np.int32]
    """Index of the launching thread, -1 if unlinked."""
    span: Ints
    """Index of the innermost span around the launch, -1 for none."""
    by_graph: NDArray[np.bool_]
    """True if the launch call started several GPU events: only a graph replay does."""
    replayed: NDArray[np.bool_]
    """True if the launch call is a graph launch by its name. Unlike `by_graph`, true also for graphs of one event."""

    @property
    def linked(self) -> NDArray[np.bool_]:
        """True for each GPU event whose launch call is in the trace."""
        return self.launch >= 0

    def launches(self, at: Ints | slice) -> Ints:
        """Return the distinct launches of some GPU events, in ascending order."""
        found = self.launch[at]
        return distinct(found[found >= 0])


class LaunchCalls(NamedTuple):
    """The launch call of each GPU event, and the calls that have an event."""

    call: Ints
    """Per GPU event: index of its launch call in `trace.calls`, or UNLINKED."""
    answered: NDArray[np.bool_]
    """Per entry of `trace.calls`: True if the trace holds a GPU event with the correlation id of the call."""


def attribute(trace: Trace, spans: SpanTable, launches: LaunchCalls | None = None) -> Attribution:
    """Find the launch and the innermost span of every GPU event; `launches` are those of `launch_calls`, if known."""
    launch, answered = launches or launch_calls(trace)
    linked = launch >= 0
    at = launch[linked]
    start, end = np.zeros(len(launch), np.int64), np.zeros(len(launch), np.int64)
    thread = np.full(len(launch), -1, np.int32)
    start[linked], end[linked] = trace.calls.start_ns[at], trace.calls.end_ns[at]
    thread[linked] = trace.calls.thread[at]
    span = np.full(len(launch), -1, np.int64)
    span[linked] = spans.innermost_at(thread[linked], start[linked])
    count = np.bincount(at, minlength=len(trace.calls))
    by_graph = np.zeros(len(launch), np.bool_)
    by_graph[linked] = count[at] > 1
    replayed = np.zeros(len(launch), np.bool_)
    replayed[linked] = rows_named(trace.names, trace.calls.name[at], is_graph_launch)
    return Attribution(
        launch=launch,
        answered=answered,
        launch_start_ns=start,
        launch_end_ns=end,
        thread=thread,
        span=span,
        by_graph=by_graph,
        replayed=replayed,
    )


def is_graph_launch(name: str) -> bool:
    """True if a runtime call of this name replays a graph."""
    return "graphlaunch" in name.lower()


def launch_calls(trace: Trace) -> LaunchCalls:
    """Return the first call with the id of each GPU event, and, per call, whether some GPU event has its id.

    Calls of several processes in one file may share an id; then all of them count as answered.
    """
    answered = np.zeros(len(trace.calls), np.bool_)
    at = np.flatnonzero(trace.calls.correlation != NO_CORRELATION)
    at = at[np.argsort(trace.calls.correlation[at], kind="stable")]
    ids = trace.calls.correlation[at]
    wanted = trace.gpu.correlation
    if len(ids) == 0:
        return LaunchCalls(np.full(len(wanted), UNLINKED, np.int64), answered)
    position = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    found = (ids[position] == wanted) & (wanted != NO_CORRELATION)
    is_first = np.ones(len(ids), np.bool_)
    is_first[1:] = ids[1:] != ids[:-1]
    has_event = np.zeros(len(ids), np.bool_)
    has_event[position[found]] = True
    answered[at] = has_event[np.flatnonzero(is_first)][np.cumsum(is_first) - 1]
    return LaunchCalls(np.where(found, at[position], UNLINKED), answered)
