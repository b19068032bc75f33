"""GPU events of graph replays, under the spans they were captured in.

Spans inside captured code do not run on a replay, so the trace alone puts all of a replay's events into the span
around its launch. A manifest lists the events of each graph in order with their spans; a replay that matches such a
list by number and names takes its spans from it.
"""

import msgspec
import numpy as np

from roseinfer.trace.attribution import Attribution
from roseinfer.trace.columns import KERNEL, Ints, Trace
from roseinfer.trace.devices import SMALL_NS
from roseinfer.trace.manifest import Graph
from roseinfer.trace.spans import SpanTable


class MappedSpans(msgspec.Struct, frozen=True, eq=False):
    """Events that move from the span around their replay to the group of the span they were captured under.

    One entry a moved event.
    """

    new_groups: list[str]
    """Groups that no span of the trace has; numbered behind the span table's groups."""
    source: Ints
    """The group that the event comes from; -1, the last one, for `(no span)`."""
    target: Ints
    is_outside: Ints
    """1 where no span around the launch has the target group, so the inclusive figures gain the event."""
    first_of_replay: Ints
    """1 for the first event of its group in a replay."""
    gpu_ns: Ints
    events: Ints
    kernels: Ints
    small: Ints
    unmatched_replays: int
    replays: int

    def outside(self, values: Ints, size: int) -> Ints:
        """[groups] what the inclusive figures gain."""
        return np.bincount(self.target, weights=values * self.is_outside, minlength=size).astype(np.int64)

    def moved(self, values: Ints, size: int) -> Ints:
        """[groups] what the self figures gain and lose."""
        gained = np.bincount(self.target, weights=values, minlength=size)
        lost = np.bincount(self.source % size, weights=values, minlength=size)
        return (gained - lost).astype(np.int64)

    def calls(self, size: int) -> Ints:
        """[groups] replays that each group without a span of its own took part in."""
        known = size - 1 - len(self.new_groups)
        counted = self.first_of_replay * (self.target >= known)
        return np.bincount(self.target, weights=counted, minlength=size).astype(np.int64)


def map_replays(trace: Trace, spans: SpanTable, attribution: Attribution, graphs: list[Graph]) -> MappedSpans:
    """Moves the events of each replay that matches a graph of the manifest; leaves the others where they are."""
    at = np.flatnonzero(attribution.by_graph)
    order = np.lexsort((trace.gpu.start_ns[at], attribution.launch[at]))
    replays = np.split(at[order], np.flatnonzero(np.diff(attribution.launch[at][order])) + 1) if len(at) else []
    plans = {tuple(event.name for event in graph.events): [event.span for event in graph.events] for graph in graphs}
    groups = {name: index for index, name in enumerate(spans.groups)}
    known = len(groups)
    known_plans: dict[tuple[int, int], Ints] = {}
    rows: list[Ints] = []
    unmatched = 0
    for replay in replays:
        plan = plans.get(tuple(trace.names[index] for index in trace.gpu.name[replay].tolist()))
        if plan is None:
            unmatched += 1
            continue
        key = (id(plan), int(attribution.span[replay[0]]))
        if key not in known_plans:
            known_plans[key] = _moves(plan, _groups_around(spans, key[1]), groups)
        moves = known_plans[key]
        rows.append(np.column_stack((replay[moves[:, 0]], moves[:, 1:])))
    table = np.concatenate(rows) if rows else np.zeros((0, 5), np.int64)
    duration = trace.gpu.end_ns[table[:, 0]] - trace.gpu.start_ns[table[:, 0]]
    return MappedSpans(
        new_groups=list(groups)[known:],
        source=table[:, 1],
        target=table[:, 2],
        is_outside=table[:, 3],
        first_of_replay=table[:, 4],
        gpu_ns=duration,
        events=np.ones(len(table), np.int64),
        kernels=(trace.gpu.kind[table[:, 0]] == KERNEL).astype(np.int64),
        small=(duration < SMALL_NS).astype(np.int64),
        unmatched_replays=unmatched,
        replays=len(replays),
    )


def _moves(plan: list[str | None], around: list[int], groups: dict[str, int]) -> Ints:
    """[moved events, 5] ordinal in the replay, source, target, is_outside, first_of_replay."""
    source = around[0] if around else -1
    rows: list[tuple[int, int, int, int, int]] = []
    seen: set[int] = set()
    for ordinal, name in enumerate(plan):
        target = source if name is None else groups.setdefault(name, len(groups))
        if target != source:
            rows.append((ordinal, source, target, target not in around, target not in seen))
            seen.add(target)
    return np.array(rows, np.int64).reshape(-1, 5)


def _groups_around(spans: SpanTable, span: int) -> list[int]:
    """The groups of a span and of those around it, innermost first."""
    found: list[int] = []
    while span >= 0:
        found.append(int(spans.group[span]))
        span = int(spans.forest.parent[span])
    return found
