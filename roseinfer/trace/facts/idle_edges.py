"""Idle time that is in no gap between GPU events: before the first one, after the last one, and beside operators."""

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.idle_pieces import IdleStretches
from roseinfer.trace.facts.intervals import without
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.facts.wall_time import WallTime
from roseinfer.trace.reading.columns import Ints, Ints32
from roseinfer.trace.summary.budget_structs import SHORT_STRETCH_NS

_MUCH_LATER = 4
"""Multiple of a first event's time in the queue above which its launch came too late for the queue to explain."""


def edges_of_recording(facts: Facts, wall: WallTime) -> IdleStretches:
    """Return the idle time of every device before its first event and after its last one.

    A first event that follows work from before the recording has no known cause of idle time before it. What the main
    thread of the file does explains the time after the last event.
    """
    gpu, attribution = facts.trace.gpu, facts.attribution
    device, event = np.unique(gpu.device, return_index=True)
    last_end = np.maximum.reduceat(gpu.end_ns, event) if len(event) else gpu.end_ns
    file = np.array(facts.trace.device_files, np.int32)[device]
    start, end = wall.start_ns[file], gpu.start_ns[event]
    linked = ~follow_earlier_work(facts, event, start)
    late_end = np.where(linked, np.clip(attribution.launch_start_ns[event], start, np.maximum(start, end)), start)
    call_end = np.where(linked, np.clip(attribution.launch_end_ns[event], late_end, np.maximum(late_end, end)), start)
    heads = IdleStretches(
        start_ns=start,
        late_end_ns=late_end,
        call_end_ns=call_end,
        end_ns=end,
        known=linked,
        thread=attribution.thread[event],
        launch=attribution.launch[event],
        span=attribution.span[event],
        event=event,
        device=device,
    )
    tails = host_stretches(np.maximum(start, last_end), wall.end_ns[file], facts.main_thread[file], device)
    both = _joined(heads, tails)
    return _where(both, both.end_ns > both.start_ns)


def follow_earlier_work(facts: Facts, event: Ints, since_ns: Ints) -> NDArray[np.bool_]:
    """True for first events of devices that may have worked since their recording began, at `since_ns`.

    The launch of such an event is missing, or the event waited long in the queue, for work from before the recording.
    A host that took many times as long to launch the event is late all the same: so much earlier work is unlikely.
    """
    launched_ns = facts.attribution.launch_end_ns[event]
    queued_ns = facts.trace.gpu.start_ns[event] - launched_ns
    waited = (queued_ns >= SHORT_STRETCH_NS) & (launched_ns - since_ns <= _MUCH_LATER * queued_ns)
    return ~facts.attribution.linked[event] | waited


def host_stretches(start_ns: Ints, end_ns: Ints, thread: Ints32, device: Ints32) -> IdleStretches:
    """Return stretches that end with no GPU event; the activity of `thread` explains them, unless it is -1."""
    none = np.full(len(start_ns), -1, np.int64)
    known = thread >= 0
    late_end = np.where(known, end_ns, start_ns)
    return IdleStretches(
        start_ns=start_ns,
        late_end_ns=late_end,
        call_end_ns=late_end,
        end_ns=end_ns,
        known=known,
        thread=thread,
        launch=none,
        span=none,
        event=none,
        device=device,
    )


def beside_work(wall: WallTime, file: int, busy_start_ns: Ints, busy_end_ns: Ints, thread: int) -> IdleStretches:
    """Return the stretches of a file's recording outside the busy intervals, which are sorted and disjoint."""
    start, end = wall.start_ns[file : file + 1], wall.end_ns[file : file + 1]
    low, high = without(start, end, busy_start_ns, busy_end_ns)
    return host_stretches(low, high, np.full(len(low), thread, np.int32), np.full(len(low), file, np.int32))


def _joined(one: IdleStretches, other: IdleStretches) -> IdleStretches:
    return IdleStretches(
        *(np.concatenate((getattr(one, name), getattr(other, name))) for name in IdleStretches.__struct_fields__)
    )


def _where(idle: IdleStretches, keep: NDArray[np.bool_]) -> IdleStretches:
    return IdleStretches(*(getattr(idle, name)[keep] for name in IdleStretches.__struct_fields__))
