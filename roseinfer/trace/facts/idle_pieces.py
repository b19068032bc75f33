"""Cut the idle time of devices into pieces, by cause and by what the responsible host thread was doing."""

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.host_activity import Activity
from roseinfer.trace.facts.innermost import cut_in_order
from roseinfer.trace.facts.intervals import stable_order
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32
from roseinfer.trace.summary.budget_structs import SHORT_STRETCH_NS

HOST_LATE, LAUNCH_CALL, DEVICE_QUEUE, UNLINKED = range(4)
"""Causes of idle time, as in `facts/idle_gaps.py`."""


class IdleStretches(msgspec.Struct, frozen=True, eq=False):
    """Stretches in which a device ran nothing. Every array has one entry per stretch."""

    start_ns: Ints
    late_end_ns: Ints
    """End of the stretch's first part, in which the host is late."""
    call_end_ns: Ints
    """End of the stretch's second part, the launch call. The rest is time in the device's queue."""
    end_ns: Ints
    known: NDArray[np.bool_]
    """True if the responsible host thread is known; else the whole stretch is unlinked."""
    thread: Ints32
    """Index of the host thread that launched the next event; at the end of a recording, of the main thread."""
    launch: Ints
    """Index of the launch call in `trace.calls`, -1 for none."""
    span: Ints
    """Innermost span around the launch, -1 for none."""
    event: Ints
    """Index of the GPU event that ends the stretch, -1 at the end of a recording."""
    device: Ints32
    """Index of the device; of the file if the device is the CPU."""

    @property
    def is_short(self) -> NDArray[np.bool_]:
        """Per stretch: true if it is shorter than `SHORT_STRETCH_NS`."""
        return self.end_ns - self.start_ns < SHORT_STRETCH_NS


class IdlePieces(msgspec.Struct, frozen=True, eq=False):
    """Stretches of idle time, cut at every change of the cause, of the host's activity, Python function and span.

    Pieces are sorted by stretch, then by time. The pieces of a stretch add up to the stretch.
    """

    stretch: Ints
    """Index of the stretch that the piece was cut from."""
    cause: NDArray[np.int8]
    begin_ns: Ints
    length_ns: Ints
    thread: Ints32
    """Index of the responsible host thread, -1 if it is not known."""
    owner: Ints
    """Index of the innermost activity of the responsible thread, -1 for none and for causes off the host."""
    frame: Ints
    """Index of the innermost Python function of the responsible thread in `facts.frames`, -1 for none."""
    span: Ints
    """Innermost span of the responsible thread; for causes off the host, the span around the launch. -1 for none."""

    def __len__(self) -> int:
        return len(self.stretch)

    def where(self, keep: NDArray[np.bool_] | Ints) -> "IdlePieces":
        """Return some of the pieces, chosen by a mask or by indices."""
        return IdlePieces(*(getattr(self, name)[keep] for name in self.__struct_fields__))

    def after(self, since_ns: int) -> "IdlePieces":
        """Return the pieces without the time before an instant."""
        if len(self) == 0 or int(self.begin_ns.min()) >= since_ns:
            return self
        kept = self.where(self.begin_ns + self.length_ns > since_ns)
        begin = np.maximum(kept.begin_ns, since_ns)
        length = kept.length_ns - (begin - kept.begin_ns)
        return msgspec.structs.replace(kept, begin_ns=begin, length_ns=length)

    def split_at(self, at_ns: Ints) -> "IdlePieces":
        """Return the pieces, cut at some instants in ascending order."""
        if len(at_ns) == 0 or len(self) == 0:
            return self
        low, high = np.searchsorted(at_ns, (self.begin_ns.min(), (self.begin_ns + self.length_ns).max()))
        at_ns = at_ns[low:high]
        end_ns = self.begin_ns + self.length_ns
        first = np.searchsorted(at_ns, self.begin_ns, side="right")
        count = np.maximum(np.searchsorted(at_ns, end_ns, side="left") - first, 0) + 1
        piece = np.repeat(np.arange(len(self)), count)
        ordinal = np.arange(len(piece)) - np.repeat(np.cumsum(count) - count, count)
        edge = first[piece] + ordinal
        some = np.append(at_ns, 0)
        begin = np.where(ordinal > 0, some[edge - 1], self.begin_ns[piece])
        end = np.where(ordinal < count[piece] - 1, some[np.minimum(edge, len(at_ns))], end_ns[piece])
        return msgspec.structs.replace(self.where(piece), begin_ns=begin, length_ns=end - begin)


def stretches_of_gaps(facts: Facts, which: slice | Ints) -> IdleStretches:
    """Return some of the gaps between GPU events as stretches."""
    gaps, attribution = facts.gaps, facts.attribution
    event = gaps.event[which]
    return IdleStretches(
        start_ns=gaps.start_ns[which],
        late_end_ns=gaps.late_end_ns[which],
        call_end_ns=gaps.call_end_ns[which],
        end_ns=gaps.end_ns[which],
        known=gaps.linked[which],
        thread=attribution.thread[event],
        launch=attribution.launch[event],
        span=attribution.span[event],
        event=event,
        device=gaps.device[which],
    )


def cut_idle_time(facts: Facts, activity: Activity, idle: IdleStretches) -> IdlePieces:
    """Cut stretches of idle time. Only host-late time is cut by what the host thread was doing."""
    call, known = idle.call_end_ns, idle.known
    queued = _whole(DEVICE_QUEUE, call, np.where(known, idle.end_ns, call), idle)
    unlinked = _whole(UNLINKED, idle.start_ns, np.where(known, idle.start_ns, idle.end_ns), idle)
    parts = [_late(facts, activity, idle), _calling(facts, activity, idle), queued, unlinked]
    order = stable_order(np.concatenate([part.stretch for part in parts]))
    return IdlePieces(
        *(np.concatenate([getattr(part, name) for part in parts])[order] for name in IdlePieces.__struct_fields__)
    )


def _late(facts: Facts, activity: Activity, idle: IdleStretches) -> IdlePieces:
    at = np.flatnonzero((idle.late_end_ns > idle.start_ns) & idle.known)
    begin, thread = idle.start_ns[at], idle.thread[at]
    pieces = _in_spans(facts, idle, HOST_LATE, _Turns(at, thread, begin, idle.late_end_ns[at] - begin))
    end_ns = pieces.begin_ns + pieces.length_ns
    found = cut_in_order(activity.forest, activity.thread, pieces.thread, pieces.begin_ns, end_ns)
    cut = pieces.where(found.stretch)
    return msgspec.structs.replace(cut, owner=found.owner, begin_ns=found.begin_ns, length_ns=found.length_ns)


def _calling(facts: Facts, activity: Activity, idle: IdleStretches) -> IdlePieces:
    at = np.flatnonzero((idle.call_end_ns > idle.late_end_ns) & idle.known)
    begin, thread = idle.late_end_ns[at], idle.thread[at]
    pieces = _in_spans(facts, idle, LAUNCH_CALL, _Turns(at, thread, begin, idle.call_end_ns[at] - begin))
    owner = activity.of_call[idle.launch[pieces.stretch]].astype(np.int64)
    return msgspec.structs.replace(pieces, owner=owner)


class _Turns(NamedTuple):
    """Pieces of time with the thread that is responsible; fields as in `IdlePieces`."""

    stretch: Ints
    thread: Ints32
    begin_ns: Ints
    length_ns: Ints


def _in_spans(facts: Facts, idle: IdleStretches, cause: int, turns: _Turns) -> IdlePieces:
    """Cut pieces by the responsible thread, its Python function, and the span of the thread that launched.

    These change rarely, so stretches are cut by them before they are cut by operators and calls.
    """
    if cause == HOST_LATE and len(facts.backward):
        found = facts.backward.cut(turns.thread, turns.begin_ns, turns.begin_ns + turns.length_ns)
        turns = _Turns(turns.stretch[found.stretch], found.owner.astype(np.int32), found.begin_ns, found.length_ns)
    frame = np.full(len(turns.stretch), -1, np.int64)
    frames = facts.frames
    if len(frames):
        end_ns = turns.begin_ns + turns.length_ns
        found = cut_in_order(frames.forest, frames.thread, turns.thread, turns.begin_ns, end_ns)
        piece, frame = found.stretch, found.owner
        turns = _Turns(turns.stretch[piece], turns.thread[piece], found.begin_ns, found.length_ns)
    found = facts.spans.cut(idle.thread[turns.stretch], turns.begin_ns, turns.begin_ns + turns.length_ns)
    piece = found.stretch
    return IdlePieces(
        stretch=turns.stretch[piece],
        cause=np.full(len(piece), cause, np.int8),
        begin_ns=found.begin_ns,
        length_ns=found.length_ns,
        thread=turns.thread[piece],
        owner=np.full(len(piece), -1, np.int64),
        frame=frame[piece],
        span=found.owner,
    )


def _whole(cause: int, start_ns: Ints, end_ns: Ints, idle: IdleStretches) -> IdlePieces:
    """Return one piece per stretch that has time of a cause which does not depend on the host."""
    at = np.flatnonzero(end_ns > start_ns)
    return IdlePieces(
        stretch=at,
        cause=np.full(len(at), cause, np.int8),
        begin_ns=start_ns[at],
        length_ns=end_ns[at] - start_ns[at],
        thread=idle.thread[at],
        owner=np.full(len(at), -1, np.int64),
        frame=np.full(len(at), -1, np.int64),
        span=idle.span[at],
    )
