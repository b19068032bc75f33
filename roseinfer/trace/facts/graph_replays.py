"""GPU events of graph replays, under the spans they were captured in.

Spans inside captured code do not run on a replay, so the trace alone puts all of a replay's events into the span
around its launch. A manifest lists the events of each graph in order with their spans; a replay that matches such a
list by number and names takes its spans from it.
"""

from collections import Counter, defaultdict
from itertools import pairwise

import msgspec
import numpy as np

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.span_costs import SMALL_NS
from roseinfer.trace.facts.span_table import SpanTable
from roseinfer.trace.reading.columns import KERNEL, Ints, Small, Trace
from roseinfer.trace.reading.trace_manifest import Graph


class _Changes(msgspec.Struct, frozen=True, eq=False):
    """Which groups gain and lose which events. One entry a change."""

    event: Ints
    """Index into the mapped events."""
    group: Ints
    """-1, the last one, for `(no span)`."""
    sign: Ints

    def total(self, values: Ints, size: int) -> Ints:
        """[groups] the sum of what each gains and loses of the mapped events' values."""
        weights = values[self.event] * self.sign
        return np.bincount(self.group % size, weights=weights, minlength=size).astype(np.int64)


class MappedSpans(msgspec.Struct, frozen=True, eq=False):
    """Events that count for the spans they were captured under instead of the span around their replay.

    `at`, `gpu_ns`, `events`, `kernels` and `small` have one entry an event of a replay that matches a graph.
    """

    new_groups: list[str]
    """Groups that no span of the trace has; numbered behind the span table's groups."""
    parents: dict[int, str]
    """What the new groups are inside of."""
    at: Ints
    """The GPU event that each entry is of."""
    gpu_ns: Ints
    events: Ints
    kernels: Ints
    small: Ints
    own: _Changes
    inclusive: _Changes
    """The same with inner spans counted."""
    replay_calls: dict[int, int]
    """By group, the replays that count as calls of it: those in whose step it has no span of its own."""
    replays: int
    unmatched: list[int]
    """The number of events of each replay that matches no graph."""
    unmapped_events: int
    """Events of the other replays whose span the manifest does not know."""

    def outside(self, values: Ints, size: int) -> Ints:
        """[groups] what the inclusive figures gain and lose."""
        return self.inclusive.total(values, size)

    def moved(self, values: Ints, size: int) -> Ints:
        """[groups] what the self figures gain and lose."""
        return self.own.total(values, size)

    def calls(self, size: int) -> Ints:
        """[groups] replays that count as calls."""
        calls = np.zeros(size, np.int64)
        calls[list(self.replay_calls)] = list(self.replay_calls.values())
        return calls


class _Plan:
    """A graph of the manifest, with its spans as groups: `chains` has each event's, innermost first."""

    def __init__(self, graph: Graph, names: Small) -> None:
        self._graph = graph
        self.names = np.sort(names).tobytes()
        self.by_name = np.argsort(names, kind="stable")
        self.is_nesting_known = graph.parents is not None
        self.unmapped = sum(event.span is None for event in graph.events)
        self.chains: list[list[int]] = []
        self.parents: dict[int, str] = {}
        self.groups: set[int] = set()

    def number_groups(self, groups: dict[str, int]) -> None:
        """Find the plan's spans among the groups, and add those that are new."""
        for event in self._graph.events:
            chain = _chain(event.span, self._graph.parents or {})
            self.chains.append([groups.setdefault(name, len(groups)) for name in chain])
            self.parents |= {groups[name]: outer for name, outer in pairwise(chain)}
            self.groups.update(self.chains[-1])

    def changes(self, around: tuple[int, ...]) -> tuple[list[list[int]], list[list[int]]]:
        """Of the own and of the inclusive figures: [ordinal in the replay, group, sign] of each change."""
        own: list[list[int]] = []
        inclusive: list[list[int]] = []
        source = around[0] if around else -1
        # Spans around the launch that the graph was captured under too: what they hold, the graph says.
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
    """Counts the events of each replay that matches a graph of the manifest for that graph's spans."""
    replays = _replays(trace, attribution)
    groups = {name: index for index, name in enumerate(spans.groups)}
    known = len(groups)
    plans = _plans(trace, graphs)
    held = _groups_of_steps(spans) if plans and replays else set()
    alike: defaultdict[tuple[_Plan, tuple[int, ...]], list[Ints]] = defaultdict(list)
    unmatched: list[int] = []
    calls: Counter[int] = Counter()
    for replay in replays:
        names = trace.gpu.name[replay]
        by_name = np.argsort(names, kind="stable")
        plan = plans.get(names[by_name].tobytes())
        if plan is None:
            unmatched.append(len(replay))
            continue
        if not plan.chains:
            plan.number_groups(groups)
        # The n-th event of a name is the n-th of that name in the plan. On one stream this is the order itself; on
        # several, kernels of parallel branches may change places from replay to replay.
        in_order = np.empty_like(replay)
        in_order[plan.by_name] = replay[by_name]
        around = _spans_around(spans, int(attribution.span[replay[0]]))
        around_groups = tuple(int(spans.group[span]) for span in around)
        alike[plan, around_groups].append(in_order)
        step = around[-1] if around else -1
        calls.update(group for group in plan.groups if group not in around_groups and (step, group) not in held)
    events, own, inclusive = _joined_changes(alike)
    duration = trace.gpu.end_ns[events] - trace.gpu.start_ns[events]
    names_of = list(groups)
    parents: dict[int, str] = {}
    for plan, around_groups in alike:
        # Where the nesting is known, the launch's own span may stand for one of the graph's.
        outer = [group for group in around_groups if not plan.is_nesting_known or group not in plan.groups]
        parents |= dict.fromkeys(plan.groups, names_of[outer[0]]) if outer else {}
        parents |= plan.parents
    return MappedSpans(
        new_groups=names_of[known:],
        parents={group: outer for group, outer in parents.items() if group >= known},
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
        unmapped_events=sum(plan.unmapped * len(found) for (plan, _), found in alike.items()),
    )


def _replays(trace: Trace, attribution: Attribution) -> list[Ints]:
    """The GPU events of each replay in order of time."""
    at = np.flatnonzero(attribution.by_graph | attribution.replayed)
    if len(at) == 0:
        return []
    order = at[np.lexsort((trace.gpu.start_ns[at], attribution.launch[at]))]
    return np.split(order, np.flatnonzero(np.diff(attribution.launch[order])) + 1)


def _plans(trace: Trace, graphs: list[Graph]) -> dict[bytes, _Plan]:
    """Graphs by the sorted names of their events; without those that have names which the trace does not."""
    index = {name: at for at, name in enumerate(trace.names)}
    found: list[_Plan] = []
    for graph in graphs:
        names = np.array([index.get(event.name, -1) for event in graph.events], trace.gpu.name.dtype)
        if len(names) and names.min() >= 0:
            found.append(_Plan(graph, names))
    return {plan.names: plan for plan in found}


def _chain(span: str | None, parents: dict[str, str]) -> list[str]:
    """A span and those it was captured in, innermost first."""
    chain: list[str] = []
    while span is not None and span not in chain:
        chain.append(span)
        span = parents.get(span)
    return chain


def _joined_changes(alike: dict[tuple[_Plan, tuple[int, ...]], list[Ints]]) -> tuple[Ints, _Changes, _Changes]:
    """(the events of all matched replays, the changes of the own and of the inclusive figures)."""
    events = [np.zeros(0, np.int64)]
    tables: tuple[list[Ints], list[Ints]] = ([], [])
    first = 0
    for (plan, around), replays in alike.items():
        size = len(replays[0])
        firsts = first + size * np.arange(len(replays))
        for table, changes in zip(tables, plan.changes(around), strict=True):
            one = np.array(changes, np.int64).reshape(-1, 3)
            repeated = np.tile(one, (len(replays), 1))
            repeated[:, 0] += np.repeat(firsts, len(one))
            table.append(repeated)
        events += replays
        first += size * len(replays)
    own, inclusive = (np.concatenate([np.zeros((0, 3), np.int64), *table]) for table in tables)
    return np.concatenate(events), _Changes(*own.T), _Changes(*inclusive.T)


def _spans_around(spans: SpanTable, span: int) -> list[int]:
    """A span and those around it, innermost first; none for -1."""
    found: list[int] = []
    while span >= 0:
        found.append(span)
        span = int(spans.forest.parent[span])
    return found


def _groups_of_steps(spans: SpanTable) -> set[tuple[int, int]]:
    """(top span, group) for each group that a top span holds."""
    is_top = spans.forest.depth == 0
    top = np.maximum.accumulate(np.where(is_top, np.arange(len(spans)), 0)) if len(spans) else np.zeros(0, np.int64)
    return set(zip(top.tolist(), spans.group.tolist(), strict=True))
