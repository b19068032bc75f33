"""Build the table of spans: named ranges of the program, grouped by name without their `[...]` labels."""

import re

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.innermost import OrderedPieces, cut_in_order, innermost_at
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.facts.steps import stub_spans
from roseinfer.trace.reading.columns import Ints, Ints32, Trace

_LABEL = re.compile(r"\[.*\]$", re.DOTALL)
_NUMBERED = re.compile(r"^(ProfilerStep)#\d+$")
_VLLM = re.compile(r"^execute_(?:context|new|\d+)_")
_DIGITS = re.compile(r"\d+")


class SpanTable(msgspec.Struct, frozen=True, eq=False):
    """The spans of a trace and their nesting, sorted by (thread, start, longest first)."""

    forest: Forest
    across_threads: Forest
    """The nesting in which a span of autograd's thread is inside the span that waits for the backward pass."""
    thread: NDArray[np.int32]
    """Per span: index of its thread."""
    group: NDArray[np.int32]
    """Per span: index of its name in `groups`."""
    groups: list[str]
    """Distinct span names without labels."""
    waiting: Ints32
    """Per thread of the trace: the thread that waits for its backward passes, as in `BackwardThreads`."""

    @property
    def start_ns(self) -> Ints:
        """Per span: start time in ns."""
        return self.forest.start_ns

    @property
    def end_ns(self) -> Ints:
        """Per span: end time in ns, but no later than its parent's end."""
        return self.forest.end_ns

    def __len__(self) -> int:
        return len(self.group)

    def innermost_at(self, thread: Ints32, at_ns: Ints) -> Ints:
        """Return, for each query (thread, instant), the innermost span, -1 for none.

        Outside the spans of autograd's thread, it is the innermost span of the thread that waits.
        """
        found = innermost_at(self.forest, self.thread, thread, at_ns)
        lost = self._outside(found, thread)
        if len(lost):
            found[lost] = innermost_at(self.forest, self.thread, self.waiting[thread[lost]], at_ns[lost])
        return found

    def cut(self, thread: Ints32, start_ns: Ints, end_ns: Ints) -> OrderedPieces:
        """Cut stretches of time of some threads by the innermost span, which is found as in `innermost_at`."""
        found = cut_in_order(self.forest, self.thread, thread, start_ns, end_ns)
        lost = self._outside(found.owner, thread[found.stretch])
        if len(lost) == 0:
            return found
        begin, length = found.begin_ns[lost], found.length_ns[lost]
        waiting = self.waiting[thread[found.stretch[lost]]]
        inner = cut_in_order(self.forest, self.thread, waiting, begin, begin + length)
        kept = np.ones(len(found.stretch), np.bool_)
        kept[lost] = False
        piece = np.concatenate((np.flatnonzero(kept), lost[inner.stretch]))
        order = np.argsort(piece, kind="stable")
        return OrderedPieces(
            found.stretch[piece][order],
            np.concatenate((found.owner[kept], inner.owner))[order],
            np.concatenate((found.begin_ns[kept], inner.begin_ns))[order],
            np.concatenate((found.length_ns[kept], inner.length_ns))[order],
        )

    def _outside(self, span: Ints, thread: Ints32) -> Ints:
        """Return the queries without a span on threads that another thread waits for."""
        other = self.waiting != np.arange(len(self.waiting))
        if not np.any(other & (self.waiting >= 0)):
            return np.zeros(0, np.int64)
        return np.flatnonzero((span < 0) & (thread >= 0) & other[thread] & (self.waiting[thread] >= 0))

    def names(self, span: Ints, without: str) -> list[str]:
        """Return the group name of each span index, and `without` for index -1."""
        groups = [*self.groups, without]
        group = np.append(self.group, len(groups) - 1)
        return [groups[index] for index in group[span].tolist()]


def group_name(name: str) -> str:
    """Return a span's name without the parts that change from call to call: its `[...]` label, a step's number."""
    plain = _LABEL.sub("", name) or name
    if _VLLM.match(plain):
        return _DIGITS.sub("N", plain)
    return _NUMBERED.sub(r"\1", plain)


def span_table(trace: Trace, waiting: Ints32 | None = None) -> SpanTable:
    """Return the spans of a trace, without a last ProfilerStep that the end of the recording cut off.

    `waiting` has, per thread, the thread that waits for its backward passes, as in `BackwardThreads`.
    """
    keep = np.ones(len(trace.spans), np.bool_)
    keep[stub_spans(trace)] = False
    thread = trace.spans.thread[keep]
    forest = nest(trace.spans.start_ns[keep], trace.spans.end_ns[keep], thread)
    groups: dict[str, int] = {}
    names, name_at = np.unique(trace.spans.name[keep], return_inverse=True)
    group_of = [groups.setdefault(group_name(trace.names[index]), len(groups)) for index in names.tolist()]
    group = np.array(group_of, np.int32)[name_at] if len(names) else np.zeros(0, np.int32)
    if waiting is None:
        waiting = np.full(len(trace.threads), -1, np.int32)
    return SpanTable(
        forest=forest,
        across_threads=_across_threads(forest, thread, waiting),
        thread=thread,
        group=group,
        groups=list(groups),
        waiting=waiting,
    )


def _across_threads(forest: Forest, thread: Ints32, waiting: Ints32) -> Forest:
    """Move the outermost spans of autograd's threads inside the spans of the threads that wait for them."""
    waits_for = waiting[thread]
    top = np.flatnonzero((forest.depth == 0) & (waits_for >= 0) & (waits_for != thread))
    outer = innermost_at(forest, thread, waits_for[top], forest.start_ns[top])
    top, outer = top[outer >= 0], outer[outer >= 0]
    if len(top) == 0:
        return forest
    parent, deeper = forest.parent.copy(), np.zeros(len(thread), np.int32)
    parent[top] = outer
    deeper[top] = forest.depth[outer] + 1
    root = np.arange(len(thread))
    inner = np.flatnonzero(forest.depth > 0)
    while len(inner):
        root[inner] = forest.parent[root[inner]]
        inner = inner[forest.depth[root[inner]] > 0]
    return Forest(parent=parent, depth=forest.depth + deeper[root], start_ns=forest.start_ns, end_ns=forest.end_ns)
