"""Time of GPU events by operator and inputs, kernel, category, module and Python stack."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.copy_names import copy_direction
from roseinfer.trace.facts.call_tree import CallTree, call_tree
from roseinfer.trace.facts.captured_regions import ReplayMatches
from roseinfer.trace.facts.operator_inputs import parse_inputs
from roseinfer.trace.facts.operator_work import OperatorGroups, operator_groups
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.findings.operator_roofline import operator_roofline
from roseinfer.trace.findings.replayed_operators import with_replays
from roseinfer.trace.kernel_categories import kernel_category, uses_tensor_cores
from roseinfer.trace.reading.categories import MODULE_FRAME
from roseinfer.trace.reading.columns import HostTable, Ints
from roseinfer.trace.summary.units import to_ms, to_percent
from roseinfer.trace.summary.work_structs import (
    CATEGORIES,
    NO_OPERATOR,
    CategoryWork,
    DevicePeaks,
    KernelShare,
    KernelWork,
    OperatorWork,
    StackWork,
)

_Value = TypeVar("_Value")

_MAX_ROWS = 1000
_MAX_STACKS = 200
_KERNELS = 5
_OPERATORS = 3


class WorkTables(NamedTuple):
    """Time of GPU events in tables, each with the longest first."""

    operators: list[OperatorWork]
    kernels: list[KernelWork]
    categories: list[CategoryWork]
    modules: list[StackWork]
    stacks: list[StackWork]


class _Pairs(NamedTuple):
    """GPU events with the same operator group and the same name. Every array has one entry per pair."""

    group: Ints
    """Index of the group, -1 for events without an operator."""
    name: Ints
    """Index into `trace.names`."""
    events: Ints
    """Number of events."""
    ns: Ints


def summarize_work(facts: Facts, peaks: DevicePeaks | None, replays: ReplayMatches) -> WorkTables:
    """Return the work of all devices in tables; rooflines of operators need the peaks of the devices.

    Events of `replays` belong to the operators that launched their counterparts.
    """
    facts, groups = with_replays(facts, operator_groups(facts), replays)
    trace = facts.trace
    pairs = _pairs(facts, groups)
    total_ns = int(pairs.ns.sum())
    return WorkTables(
        operators=_operators(facts, groups, pairs, peaks),
        kernels=_kernels(facts, groups, pairs, total_ns),
        categories=_categories(facts, pairs, total_ns),
        modules=_stacks(facts, call_tree(facts, _modules(trace.names, trace.frames)), total_ns),
        stacks=_stacks(facts, call_tree(facts, trace.frames), total_ns)[:_MAX_STACKS],
    )


def _pairs(facts: Facts, groups: OperatorGroups) -> _Pairs:
    gpu, names = facts.trace.gpu, len(facts.trace.names)
    key = (groups.of_event + 1) * names + gpu.name
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(key) else np.zeros(0, np.int64)
    found = ordered[first]
    ns = np.add.reduceat((gpu.end_ns - gpu.start_ns)[order], first) if len(key) else found
    return _Pairs(found // names - 1, found % names, np.diff(np.append(first, len(key))), ns)


def _operators(facts: Facts, groups: OperatorGroups, pairs: _Pairs, peaks: DevicePeaks | None) -> list[OperatorWork]:
    """Return one row per group, and one for the events without an operator."""
    kernels: defaultdict[int, list[int]] = defaultdict(list)
    for index in np.argsort(-pairs.ns, kind="stable").tolist():
        kernels[int(pairs.group[index])].append(index)
    own = groups.self_gpu_ns if len(pairs.ns) else groups.self_host_ns
    # Operators that launch nothing themselves are told by the rows of those that do.
    shown = np.flatnonzero((groups.gpu_ns > 0) | (len(pairs.ns) == 0))
    shown = shown[np.lexsort((-groups.gpu_ns[shown], -own[shown]))][: _MAX_ROWS - 1]
    whole_ns = int(pairs.ns.sum()) or int(groups.self_host_ns.sum())
    rows = [
        _operator(facts, groups, index, events, whole_ns, peaks)
        for index in shown.tolist()
        for events in [_of(pairs, kernels[index], facts)]
    ]
    if kernels[-1]:
        rows.append(_without_operator(_of(pairs, kernels[-1], facts), whole_ns))
    return sorted(rows, key=lambda row: -row.percent)


class _OfGroup(NamedTuple):
    """GPU events of one operator group, the longest first."""

    names: list[str]
    counts: list[int]
    ns: list[int]

    def most(self, rule: Callable[[str], _Value]) -> _Value | None:
        """Return the value of a rule on names that has most of the time; None without events."""
        sums: defaultdict[_Value, int] = defaultdict(int)
        for name, ns in zip(self.names, self.ns, strict=True):
            sums[rule(name)] += ns
        return max(sums, key=lambda value: sums[value], default=None)

    @property
    def shares(self) -> list[KernelShare]:
        rows = zip(self.names, self.counts, self.ns, strict=True)
        return [KernelShare(name, count, to_ms(ns)) for name, count, ns in list(rows)[:_KERNELS]]


def _of(pairs: _Pairs, which: list[int], facts: Facts) -> _OfGroup:
    names = [facts.trace.names[int(pairs.name[index])] for index in which]
    return _OfGroup(names, [int(pairs.events[index]) for index in which], [int(pairs.ns[index]) for index in which])


def _operator(
    facts: Facts, groups: OperatorGroups, index: int, events: _OfGroup, whole_ns: int, peaks: DevicePeaks | None
) -> OperatorWork:
    trace, given = facts.trace, int(groups.inputs[index])
    inputs = parse_inputs(trace.inputs[given]) if given >= 0 else None
    has_gpu = len(trace.gpu) > 0
    row = OperatorWork(
        name=trace.names[int(groups.name[index])],
        shapes=inputs.shapes if inputs else None,
        dtypes=inputs.dtypes if inputs else None,
        calls=int(groups.calls[index]),
        gpu_ms=to_ms(groups.gpu_ns[index]),
        self_gpu_ms=to_ms(groups.self_gpu_ns[index]),
        percent=to_percent((groups.self_gpu_ns if has_gpu else groups.self_host_ns)[index], whole_ns),
        host_ms=to_ms(groups.host_ns[index]),
        self_host_ms=to_ms(groups.self_host_ns[index]),
        category=events.most(kernel_category),
        tensor_cores=events.most(uses_tensor_cores),
        kernels=events.shares,
    )
    if inputs is None or any(copy_direction(one.name) for one in row.kernels[:1]):
        return row  # a copy to or from the host is bound by the link between them
    found = operator_roofline(row.name, inputs, row.calls, row.gpu_ms, peaks)
    return msgspec.structs.replace(row, roofline=found)


def _without_operator(events: _OfGroup, whole_ns: int) -> OperatorWork:
    ns = sum(events.ns)
    return OperatorWork(
        name=NO_OPERATOR,
        shapes=None,
        dtypes=None,
        calls=0,
        gpu_ms=to_ms(ns),
        self_gpu_ms=to_ms(ns),
        percent=to_percent(ns, whole_ns),
        host_ms=0.0,
        self_host_ms=0.0,
        category=events.most(kernel_category),
        tensor_cores=events.most(uses_tensor_cores),
        kernels=events.shares,
    )


def _kernels(facts: Facts, groups: OperatorGroups, pairs: _Pairs, total_ns: int) -> list[KernelWork]:
    names = facts.trace.names
    ns = np.bincount(pairs.name, weights=pairs.ns, minlength=len(names)).astype(np.int64)
    count = np.bincount(pairs.name, weights=pairs.events, minlength=len(names)).astype(np.int64)
    operators: defaultdict[int, dict[str, None]] = defaultdict(dict)
    for index in np.argsort(-pairs.ns, kind="stable").tolist():
        if pairs.group[index] >= 0:
            operators[int(pairs.name[index])][names[int(groups.name[pairs.group[index]])]] = None
    order = [index for index in np.argsort(-ns, kind="stable").tolist() if count[index]][:_MAX_ROWS]
    return [
        KernelWork(
            name=names[index],
            category=kernel_category(names[index]),
            tensor_cores=uses_tensor_cores(names[index]),
            count=int(count[index]),
            ms=to_ms(ns[index]),
            percent=to_percent(ns[index], total_ns),
            mean_us=round(float(ns[index] / count[index]) / 1000, 3),
            operators=list(operators[index])[:_OPERATORS],
        )
        for index in order
    ]


def _categories(facts: Facts, pairs: _Pairs, total_ns: int) -> list[CategoryWork]:
    names = [facts.trace.names[index] for index in pairs.name.tolist()]
    category = np.array([CATEGORIES.index(kernel_category(name)) for name in names], np.int64)
    cores = [uses_tensor_cores(name) for name in names]
    is_used, is_unused = np.array([one is True for one in cores]), np.array([one is False for one in cores])
    found = [
        CategoryWork(
            category=CATEGORIES[index],
            count=_sum(pairs.events, category == index),
            ms=to_ms(_sum(pairs.ns, category == index)),
            percent=to_percent(_sum(pairs.ns, category == index), total_ns),
            tensor_cores_ms=to_ms(_sum(pairs.ns, (category == index) & is_used)),
            no_tensor_cores_ms=to_ms(_sum(pairs.ns, (category == index) & is_unused)),
        )
        for index in np.unique(category).tolist()
    ]
    return sorted(found, key=lambda row: -row.ms)


def _sum(values: Ints, where: NDArray[np.bool_]) -> int:
    return int(values[where].sum())


def _modules(names: list[str], frames: HostTable) -> HostTable:
    """Return the calls of modules among the Python functions."""
    is_module = np.array([name.startswith(MODULE_FRAME) for name in names], np.bool_)
    keep = is_module[frames.name] if len(frames) else np.zeros(0, np.bool_)
    return msgspec.structs.replace(
        frames,
        start_ns=frames.start_ns[keep],
        end_ns=frames.end_ns[keep],
        name=frames.name[keep],
        thread=frames.thread[keep],
    )


def _stacks(facts: Facts, tree: CallTree, total_ns: int) -> list[StackWork]:
    """Return one row per node, and one for the time of GPU events outside all of them; none for an empty tree."""
    if len(tree) == 0:
        return []
    own = tree.self_gpu_ns if total_ns else tree.self_host_ns
    whole_ns = total_ns or int(tree.self_host_ns.sum())
    rows = [
        StackWork(
            frames=_frames(facts, tree, index),
            calls=int(tree.calls[index]),
            gpu_ms=to_ms(tree.gpu_ns[index]),
            self_gpu_ms=to_ms(tree.self_gpu_ns[index]),
            percent=to_percent(own[index], whole_ns),
            host_ms=to_ms(tree.host_ns[index]),
            self_host_ms=to_ms(tree.self_host_ns[index]),
        )
        for index in np.argsort(-own, kind="stable")[:_MAX_ROWS].tolist()
    ]
    if tree.outside_gpu_ns:
        outside = tree.outside_gpu_ns
        ms, share = to_ms(outside), to_percent(outside, whole_ns)
        none = StackWork(frames=[], calls=0, gpu_ms=ms, self_gpu_ms=ms, percent=share, host_ms=0.0, self_host_ms=0.0)
        rows.append(none)
    return sorted(rows, key=lambda row: -row.percent)


def fold(facts: Facts) -> list[str]:
    """Return the stacks of Python functions as `outer;inner 123`, with their own time in us."""
    tree = call_tree(facts, facts.trace.frames)
    own = tree.self_gpu_ns if len(facts.trace.gpu) else tree.self_host_ns
    us = np.rint(own / 1000).astype(np.int64)
    lines = [
        f"{';'.join(frame.replace(';', ',') for frame in _frames(facts, tree, index))} {us[index]}"
        for index in np.flatnonzero(us).tolist()
    ]
    return sorted(lines)


def _frames(facts: Facts, tree: CallTree, index: int) -> list[str]:
    found: list[str] = []
    while index >= 0:
        found.append(facts.trace.names[int(tree.name[index])].removeprefix(MODULE_FRAME))
        index = int(tree.parent[index])
    return found[::-1]
