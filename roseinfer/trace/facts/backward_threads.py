"""Find autograd's threads, the thread that waits for each of them, and the times in which it waits.

`loss.backward()` blocks its thread while autograd's thread runs the backward pass and launches its kernels. Meanwhile
autograd's thread is the one that matters; before and after, the waiting thread is.
"""

import re

import msgspec
import numpy as np

from roseinfer.trace.facts.innermost import OrderedPieces, cut_in_order
from roseinfer.trace.facts.intervals import distinct, union
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.nesting import Forest
from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.reading.columns import HostTable, Ints, Ints32, Trace

_AUTOGRAD = re.compile(r"^(?:autograd::engine::|torch::autograd::)|Backward\d*$")
_MIN_SHARE = 0.5
"""Share of a thread's operators, by time, from which on it is autograd's."""


class BackwardThreads(msgspec.Struct, frozen=True, eq=False):
    """Autograd's threads of a trace, and when each of them runs a backward pass that another thread waits for."""

    waiting: Ints32
    """Per thread of the trace: the thread that waits for it if it is autograd's, itself if it waits, else -1."""
    run_start_ns: Ints
    """Start of each run, sorted by (waiting thread, start); the runs of one waiting thread are disjoint."""
    run_end_ns: Ints
    run_waiting: Ints32
    """Per run: index of the thread that waits."""
    run_thread: Ints32
    """Per run: index of autograd's thread."""

    def __len__(self) -> int:
        return len(self.run_thread)

    @property
    def is_autograd(self) -> Ints32:
        """Indices of autograd's threads."""
        other = (self.waiting >= 0) & (self.waiting != np.arange(len(self.waiting)))
        return np.flatnonzero(other).astype(np.int32)

    def waiting_for(self, thread: Ints32) -> Ints32:
        """Return, per thread, the thread that waits for it; the thread itself if none does, and -1 for -1."""
        waiting = np.append(self.waiting, -1)[thread]
        return np.where(waiting >= 0, waiting, thread).astype(np.int32)

    def cut(self, thread: Ints32, start_ns: Ints, end_ns: Ints) -> OrderedPieces:
        """Cut stretches of time so that one thread of each matters all the time; that thread is the piece's owner.

        For autograd's threads and for those that wait, it is autograd's thread during its runs, else the waiting one.
        """
        waiting = self.waiting_for(thread)
        forest = Forest(
            parent=np.full(len(self), -1, np.int32),
            depth=np.zeros(len(self), np.int32),
            start_ns=self.run_start_ns,
            end_ns=self.run_end_ns,
        )
        found = cut_in_order(forest, self.run_waiting, waiting, start_ns, end_ns)
        run = found.owner
        owner = np.where(run >= 0, np.append(self.run_thread, -1)[run], waiting[found.stretch])
        return found._replace(owner=owner.astype(np.int64))


def find_backward_threads(trace: Trace, autograd: list[int], main_thread: Ints32) -> BackwardThreads:
    """Find when autograd's threads run backward passes. The main thread of their file waits for them."""
    waiting = np.full(len(trace.threads), -1, np.int32)
    runs: list[tuple[int, int, int, int]] = []
    for file in sorted({trace.thread_files[thread] for thread in autograd}):
        main = int(main_thread[file])
        if main < 0:
            continue
        waiting[main] = main
        for thread in autograd:
            if trace.thread_files[thread] == file:
                waiting[thread] = main
                start, end = _runs(trace, thread, main)
                runs += [(main, low, high, thread) for low, high in zip(start.tolist(), end.tolist(), strict=True)]
    rows: list[tuple[int, int, int, int]] = []
    for main, low, high, thread in sorted(runs):
        before = rows[-1][2] if rows and rows[-1][0] == main else low
        if high > before:
            rows.append((main, max(low, before), high, thread))
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return BackwardThreads(
        waiting=waiting,
        run_start_ns=columns[1],
        run_end_ns=columns[2],
        run_waiting=columns[0].astype(np.int32),
        run_thread=columns[3].astype(np.int32),
    )


def autograd_threads(trace: Trace, steps: Steps) -> list[int]:
    """Return the threads without steps that spend most of their time in operators of the backward pass."""
    is_backward = rows_named(trace.names, trace.ops.name, lambda name: _AUTOGRAD.search(name) is not None)
    if not is_backward.any():
        return []
    own = set(steps.thread.tolist())
    found: list[int] = []
    for thread in np.unique(trace.ops.thread).tolist():
        low, high = np.searchsorted(trace.ops.thread, (thread, thread + 1))
        backward = is_backward[low:high]
        if thread in own or not backward.any():
            continue
        start, end = trace.ops.start_ns[low:high], trace.ops.end_ns[low:high]
        every, mine = union(start, end), union(start[backward], end[backward])
        if (mine[1] - mine[0]).sum() >= _MIN_SHARE * (every[1] - every[0]).sum():
            found.append(thread)
    return found


def _runs(trace: Trace, thread: int, main: int) -> tuple[Ints, Ints]:
    """Return the disjoint times from autograd's first to its last activity while the main thread did nothing new."""
    edges = distinct(np.concatenate(_events(main, trace.ops, trace.calls)))
    start, end = _events(thread, trace.ops, trace.calls)
    order = np.argsort(start, kind="stable")
    start, end = union(start[order], end[order])
    low = np.concatenate(([np.iinfo(np.int64).min], edges))
    high = np.concatenate((edges, [np.iinfo(np.int64).max]))
    first = np.searchsorted(end, low, side="right")
    last = np.searchsorted(start, high, side="left") - 1
    some = np.flatnonzero(first <= last)
    return np.maximum(start[first[some]], low[some]), np.minimum(end[last[some]], high[some])


def _events(thread: int, *tables: HostTable) -> tuple[Ints, Ints]:
    """Return (starts, ends) of a thread's events in some tables."""
    parts = [(table, np.searchsorted(table.thread, (thread, thread + 1))) for table in tables]
    return (
        np.concatenate([table.start_ns[low:high] for table, (low, high) in parts]),
        np.concatenate([table.end_ns[low:high] for table, (low, high) in parts]),
    )
