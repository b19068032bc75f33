"""Join calls with the same callers into a tree, with the host time and the GPU time of each node."""

from typing import NamedTuple

import numpy as np

from roseinfer.trace.facts.innermost import innermost_at
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import HostTable, Ints, Ints32


class CallTree(NamedTuple):
    """Nodes of calls with equal names and equal callers. Parents come before their children."""

    name: Ints
    """Per node: index into `trace.names`."""
    parent: Ints
    """Per node: index of the caller's node, -1 at the top."""
    calls: Ints
    host_ns: Ints
    """Per node: time of its calls."""
    self_host_ns: Ints
    """Per node: time of its calls outside the calls of its children."""
    gpu_ns: Ints
    """Per node: durations of the GPU events launched in its calls."""
    self_gpu_ns: Ints
    """Per node: the same without those of its children."""
    outside_gpu_ns: int
    """Durations of the GPU events launched outside all calls, or without a launch in the trace."""

    def __len__(self) -> int:
        return len(self.name)


def call_tree(facts: Facts, calls: HostTable) -> CallTree:
    """Return the tree of some calls, such as all Python functions or all calls of modules.

    GPU events of autograd's threads belong to the call that waits for the backward pass.
    """
    forest = nest(calls.start_ns, calls.end_ns, calls.thread)
    node, name, parent = _nodes(forest, calls.name)
    size = len(name)
    self_gpu, outside = _gpu_times(facts, calls, forest, node, size)
    self_host = np.bincount(node, weights=forest.self_ns, minlength=size).astype(np.int64)
    return CallTree(
        name=name,
        parent=parent,
        calls=np.bincount(node, minlength=size),
        host_ns=_with_children(parent, self_host),
        self_host_ns=self_host,
        gpu_ns=_with_children(parent, self_gpu),
        self_gpu_ns=self_gpu,
        outside_gpu_ns=outside,
    )


def _nodes(forest: Forest, names: Ints32) -> tuple[Ints, Ints, Ints]:
    """Return (node of each call, name of each node, parent of each node)."""
    node = np.full(len(names), -1, np.int64)
    found_names: list[Ints] = [np.zeros(0, np.int64)]
    parents: list[Ints] = [np.zeros(0, np.int64)]
    count, size = 0, int(names.max(initial=0)) + 1
    order = np.argsort(forest.depth, kind="stable")
    edges = np.append(0, np.cumsum(np.bincount(forest.depth))) if len(names) else np.zeros(1, np.int64)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        at = order[low:high]
        above = np.where(forest.parent[at] >= 0, node[forest.parent[at]], -1)
        keys, mine = np.unique((above + 1) * size + names[at], return_inverse=True)
        node[at] = count + mine
        found_names.append(np.asarray(keys % size, np.int64))
        parents.append(np.asarray(keys // size - 1, np.int64))
        count += len(keys)
    return node, np.concatenate(found_names), np.concatenate(parents)


def _gpu_times(facts: Facts, calls: HostTable, forest: Forest, node: Ints, size: int) -> tuple[Ints, int]:
    """Return (time of the GPU events that each node launched itself, time of all others)."""
    trace, attribution, backward = facts.trace, facts.attribution, facts.backward
    duration = trace.gpu.end_ns - trace.gpu.start_ns
    linked = np.flatnonzero(attribution.linked)
    thread, at_ns = attribution.thread[linked], attribution.launch_start_ns[linked]
    inside = innermost_at(forest, calls.thread, thread, at_ns)
    for one in backward.is_autograd.tolist():
        lost = np.flatnonzero((inside < 0) & (thread == one))
        for waiting in backward.waiting_for(np.array([one], np.int32)).tolist() if len(lost) else []:
            waits = np.full(len(lost), waiting, np.int32)
            inside[lost] = innermost_at(forest, calls.thread, waits, at_ns[lost])
    known = inside >= 0
    found = np.bincount(node[inside[known]], weights=duration[linked[known]], minlength=size).astype(np.int64)
    return found, int(duration.sum() - found.sum())


def _with_children(parent: Ints, values: Ints) -> Ints:
    """Return, per node, the sum of its value and those of all nodes below it."""
    total = values.tolist()
    for index, above in reversed(list(enumerate(parent.tolist()))):
        if above >= 0:
            total[above] += total[index]
    return np.array(total, np.int64)
