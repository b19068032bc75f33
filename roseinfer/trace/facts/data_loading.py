"""Find the times in which a host thread loads data: inside operators, spans or Python functions of such names."""

import msgspec
import numpy as np

from roseinfer.trace.facts.data_loading_names import loads_data
from roseinfer.trace.facts.idle_pieces import IdlePieces
from roseinfer.trace.facts.innermost import cut_in_order
from roseinfer.trace.facts.intervals import union
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32


class LoadingTable(msgspec.Struct, frozen=True, eq=False):
    """Operators and spans of data loading and their nesting, sorted by (thread, start, longest first)."""

    forest: Forest
    thread: Ints32
    name: Ints
    """Index into the names of the trace, followed by the names of span groups."""

    def cut(self, pieces: IdlePieces) -> tuple[IdlePieces, Ints]:
        """Return (pieces cut by the innermost data-loading event of their thread, its name per piece or -1)."""
        if len(self.thread) == 0:
            return pieces, np.full(len(pieces), -1, np.int64)
        end_ns = pieces.begin_ns + pieces.length_ns
        found = cut_in_order(self.forest, self.thread, pieces.thread, pieces.begin_ns, end_ns)
        cut = msgspec.structs.replace(pieces.where(found.stretch), begin_ns=found.begin_ns, length_ns=found.length_ns)
        return cut, np.where(found.owner >= 0, self.name[found.owner], -1)


def loading_table(facts: Facts) -> LoadingTable:
    """Collect the operators and spans that load data."""
    trace, spans = facts.trace, facts.spans
    op = np.flatnonzero(rows_named(trace.names, trace.ops.name, loads_data))
    span = np.flatnonzero(rows_named(spans.groups, spans.group, loads_data))
    start = np.concatenate((facts.ops.start_ns[op], spans.start_ns[span]))
    end = np.concatenate((facts.ops.end_ns[op], spans.end_ns[span]))
    thread = np.concatenate((trace.ops.thread[op], spans.thread[span]))
    name = np.concatenate((trace.ops.name[op].astype(np.int64), len(trace.names) + spans.group[span].astype(np.int64)))
    order = np.lexsort((-end, start, thread))
    return LoadingTable(forest=nest(start[order], end[order], thread[order]), thread=thread[order], name=name[order])


def loading_times(facts: Facts, loading: LoadingTable, thread: int) -> tuple[Ints, Ints]:
    """Return the starts and ends of the times in which a thread loads data, sorted and disjoint."""
    mine = loading.thread == thread
    frames = facts.frames
    functions = (frames.thread == thread) & (frames.loading >= 0)
    start = np.concatenate((loading.forest.start_ns[mine], frames.forest.start_ns[functions]))
    end = np.concatenate((loading.forest.end_ns[mine], frames.forest.end_ns[functions]))
    order = np.argsort(start, kind="stable")
    return union(start[order], end[order])
