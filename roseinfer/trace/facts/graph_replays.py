"""Assign the GPU events of graph replays to the spans under which they were captured.

Spans inside captured code do not run during a replay, so by the trace alone, all events of a replay belong to the
span around the launch. The manifest lists the events of each graph in order, with their spans. A replay that has the
same events, by number and by name, gets its spans from this list.

Self figures of a span count the events for which it is the innermost span; inclusive figures count events of inner
spans as well. Both change when an event moves from the span around its launch to another span.
"""

from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import numpy as np

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.span_costs import SMALL_NS
from roseinfer.trace.facts.span_table import SpanTable
from roseinfer.trace.reading.columns import KERNEL, Ints, Ints32, Trace
from roseinfer.trace.reading.trace_manifest import Graph


class _GroupChanges(msgspec.Struct, frozen=True, eq=False):
    """Changes of span groups: each adds one event to a group or removes it. Every array has one entry per change."""

    event: Ints
    """Index of the event in the arrays of `MappedSpans`."""
    group: Ints
    """Index of the span group; -1, the last one, is `(no span)`."""
    sign: Ints
    """1 if the event is added to the group, -1 if it is removed."""

    def total(self, values: Ints, size: int) -> Ints:
        """Return the sum of all changes of each group, `[groups]`, if event i counts as `values[i]`."""
        weights = values[self.event] * self.sign
        return np.bincount(self.group % size, weights=weights, minlength=size).astype(np.int64)


class MappedSpans(msgspec.Struct, frozen=True, eq=False):
    """GPU events of the replays that match a graph of the manifest, and how they change the figures of spans.

    `at`, `gpu_ns`, `events`, `kernels` and `small` have one entry per event of such a replay: a mapped event.
    """

    new_groups: list[str]
    """Span groups that occur only in graphs; their numbers follow those of the span table's groups."""
    parents: dict[int, str]
    """Name of the enclosing span, for each new group that has one."""
    at: Ints
    """Index of each mapped event in the GPU table."""
    gpu_ns: Ints
    events: Ints
    """1 for every mapped event: the value to sum when counting events."""
    kernels: Ints
    """1 for kernels, 0 for other events."""
    small: Ints
    """1 for events shorter than SMALL_NS, else 0."""
    own: _GroupChanges
    """Changes of the self figures."""
    inclusive: _GroupChanges
    """Changes of the inclusive figures."""
    replay_calls: dict[int, int]
    """Per span group: number of replays that count as calls, namely those in steps without a span of the group."""
    replays: int
    """Number of graph replays in the trace."""
    unmatched: list[int]
    """Event counts of the replays that match no graph, one entry per replay."""
    unmapped_events: int
    """Number of mapped events for which the manifest names no span."""

    def change_of_inclusive(self, values: Ints, size: int) -> Ints:
        """Return the change of each group's inclusive figure, `[groups]`, if mapped event i counts as `values[i]`."""
        return self.inclusive.total(values, size)

    def change_of_self(self, values: Ints, size: int) -> Ints:
        """Return the change of each group's self figure, `[groups]`, if mapped event i counts as `values[i]`."""
        return self.own.total(values, size)

    def calls(self, size: int) -> Ints:
        """Return, for each group, the number of replays that count as its calls, `[groups]`."""
        calls = np.zeros(size, np.int64)
        calls[list(self.replay_calls)] = list(self.replay_calls.values())
        return calls


class _KnownGraph:
    """A graph of the manifest. `chains` holds, per event, the groups of its spans, innermost first."""

    def __init__(self, graph: Graph, names: Ints32) -> None:
        self._graph = graph
        self.names = np.sort(names).tobytes()
        self.by_name = np.argsort(names, kind="stable")
        self.is_nesting_known = graph.parents is not None
        self.unmapped = sum(event.span is None for event in graph.events)
        self.chains: list[list[int]] = []
        self.parents: dict[int, str] = {}
        self.groups: set[int] = set()

    def number_groups(self, groups: dict[str, int]) -> None:
        """Look up the graph's spans in `groups`, and add the missing ones."""
        for event in self._graph.events:
            chain = _chain(event.span, self._graph.parents or {})
            self.chains.append([groups.setdefault(name, len(groups)) for name in chain])
            self.parents |= {groups[name]: outer for name, outer in pairwise(chain)}
            self.groups.update(self.chains[-1])

    def changes(self, around: tuple[int, ...]) -> tuple[list[list[int]], list[list[int]]]:
        """Return the changes of the self figures and of the inclusive figures, for one replay.

        A change is [position of the event in the replay, group, sign]. `around` are the groups of the spans around
        the launch, innermost first.
        """
        own: list[list[int]] = []
        inclusive: list[list[int]] = []
        source = around[0] if around else -1
        # Spans around the launch that are also spans of the graph: the graph says which of its events they hold.
        told = [group for group in around if group in self.groups] if self.is_nesting_known else []
        for ordinal, chain in enumerate(self.chains):
            if not chain:
                continue
            if chain[0] != source:
                own += [ordinal, chain[0], 1], [ordinal, source, -1]
            inclusive += [[ordinal, group, 1] for group in chain if group not in around]
            inclusive += [[ordinal, group, -1] for group in told if group not in chain]
            if not around:
                inclusive.append([ordinal, -1, -1])
        return own, inclusive


def map_replays(trace: Trace, spans: SpanTable, attribution: Attribution, graphs: list[Graph]) -> MappedSpans:
    """Assign the events of each replay that matches a graph of the manifest to the spans of this graph."""
    replays = _replays(trace, attribution)
    groups = {name: index for index, name in enumerate(spans.groups)}
    first_new = len(groups)
    known_graphs = _index_graphs(trace, graphs)
    held = _groups_of_steps(spans) if known_graphs and replays else set()
    alike: defaultdict[tuple[_KnownGraph, tuple[int, ...]], list[Ints]] = defaultdict(list)
    unmatched: list[int] = []
    calls: Counter[int] = Counter()
    for replay in replays:
        names = trace.gpu.name[replay]
        by_name = np.argsort(names, kind="stable")
        graph = known_graphs.get(names[by_name].tobytes())
        if graph is None:
            unmatched.append(len(replay))
            continue
        if not graph.chains:
            graph.number_groups(groups)
        # The n-th event of a name is the n-th of that name in the graph. On one stream, this is the order of the
        # graph. On several, kernels of parallel branches may run in another order in each replay.
        in_order = np.empty_like(replay)
        in_order[graph.by_name] = replay[by_name]
        around = _spans_around(spans, int(attribution.span[replay[0]]))
        around_groups = tuple(int(spans.group[span]) for span in around)
        alike[graph, around_groups].append(in_order)
        step = around[-1] if around else -1
        calls.update(group for group in graph.groups if group not in around_groups and (step, group) not in held)
    events, own, inclusive = _joined_changes(alike)
    duration = trace.gpu.end_ns[events] - trace.gpu.start_ns[events]
    names_of = list(groups)
    parents: dict[int, str] = {}
    for graph, around_groups in alike:
        # If the nesting is known, a span around the launch may also be a span of the graph.
        outer = [group for group in around_groups if not graph.is_nesting_known or group not in graph.groups]
        parents |= dict.fromkeys(graph.groups, names_of[outer[0]]) if outer else {}
        parents |= graph.parents
    return MappedSpans(
        new_groups=names_of[first_new:],
        parents={group: outer for group, outer in parents.items() if group >= first_new},
        at=events,
        gpu_ns=duration,
        events=np.ones(len(events), np.int64),
        kernels=(trace.gpu.kind[events] == KERNEL).astype(np.int64),
        small=(duration < SMALL_NS).astype(np.int64),
        own=own,
        inclusive=inclusive,
        replay_calls=dict(calls),
        replays=len(replays),
        unmatched=unmatched,
        unmapped_events=sum(graph.unmapped * len(found) for (graph, _), found in alike.items()),
    )


def _replays(trace: Trace, attribution: Attribution) -> list[Ints]:
    """Return the GPU events of each replay in order of time."""
    at = np.flatnonzero(attribution.by_graph | attribution.replayed)
    if len(at) == 0:
        return []
    order = at[np.lexsort((trace.gpu.start_ns[at], attribution.launch[at]))]
    return np.split(order, np.flatnonzero(np.diff(attribution.launch[order])) + 1)


def _index_graphs(trace: Trace, graphs: list[Graph]) -> dict[bytes, _KnownGraph]:
    """Index the graphs by the sorted names of their events. Graphs with names that the trace lacks are left out."""
    index = {name: at for at, name in enumerate(trace.names)}
    found: list[_KnownGraph] = []
    for graph in graphs:
        names = np.array([index.get(event.name, -1) for event in graph.events], trace.gpu.name.dtype)
        if len(names) and names.min() >= 0:
            found.append(_KnownGraph(graph, names))
    return {graph.names: graph for graph in found}


def _chain(span: str | None, parents: dict[str, str]) -> list[str]:
    """Return a span and its ancestors at capture, innermost first."""
    chain: list[str] = []
    while span is not None and span not in chain:
        chain.append(span)
        span = parents.get(span)
    return chain


def _joined_changes(
    alike: dict[tuple[_KnownGraph, tuple[int, ...]], list[Ints]],
) -> tuple[Ints, _GroupChanges, _GroupChanges]:
    """Concatenate all replays: (their events, changes of the self figures, changes of the inclusive figures).

    `alike` groups the replays by graph and by the span groups around the launch, which decide the changes.
    """
    events = [np.zeros(0, np.int64)]
    tables: tuple[list[Ints], list[Ints]] = ([], [])
    first = 0
    for (graph, around), replays in alike.items():
        size = len(replays[0])
        firsts = first + size * np.arange(len(replays))
        for table, changes in zip(tables, graph.changes(around), strict=True):
            one = np.array(changes, np.int64).reshape(-1, 3)
            repeated = np.tile(one, (len(replays), 1))
            repeated[:, 0] += np.repeat(firsts, len(one))
            table.append(repeated)
        events += replays
        first += size * len(replays)
    own, inclusive = (np.concatenate([np.zeros((0, 3), np.int64), *table]) for table in tables)
    return np.concatenate(events), _GroupChanges(*own.T), _GroupChanges(*inclusive.T)


def _spans_around(spans: SpanTable, span: int) -> list[int]:
    """Return a span and its ancestors, innermost first; empty for -1."""
    found: list[int] = []
    while span >= 0:
        found.append(span)
        span = int(spans.across_threads.parent[span])
    return found


def _groups_of_steps(spans: SpanTable) -> set[tuple[int, int]]:
    """Return the pairs (top-level span, group of a span inside it)."""
    is_top = spans.forest.depth == 0
    top = np.maximum.accumulate(np.where(is_top, np.arange(len(spans)), 0)) if len(spans) else np.zeros(0, np.int64)
    return set(zip(top.tolist(), spans.group.tolist(), strict=True))
