"""Add the GPU events of graph replays to the operators whose captured code they run."""

import msgspec
import numpy as np

from roseinfer.trace.facts.captured_regions import CapturedRegion, ReplayMatches
from roseinfer.trace.facts.operator_work import OperatorGroups, operator_groups, with_inner
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.naming import counted
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.trace_summary import Trust


def with_replays(facts: Facts, groups: OperatorGroups, matches: ReplayMatches) -> tuple[Facts, OperatorGroups]:
    """Return (facts whose trace also has the names and inputs of capture traces, groups with the events of replays)."""
    for region in matches.regions:
        if region.facts is matches.facts:
            others, number = groups, np.arange(len(groups.name))
        else:
            others = operator_groups(region.facts)
            facts, groups, number = _joined(facts, groups, region.facts, others)
        groups = _added(facts, groups, region, others, number)
    return facts, groups


def _joined(
    facts: Facts, groups: OperatorGroups, source: Facts, others: OperatorGroups
) -> tuple[Facts, OperatorGroups, Ints]:
    """Return (facts with the names and inputs of both, groups of both, number of each group of `others` in them)."""
    trace, offset = facts.trace, len(facts.trace.inputs)
    names = {name: index for index, name in enumerate(trace.names)}
    renamed = np.array([names.setdefault(name, len(names)) for name in source.trace.names], np.int64)
    inputs = {one: index for index, one in reversed(list(enumerate(trace.inputs)))}
    given = np.array(
        [inputs.get(one, offset + index) for index, one in enumerate(source.trace.inputs)] + [-1], np.int64
    )
    known = {key: index for index, key in enumerate(zip(groups.name.tolist(), groups.inputs.tolist(), strict=True))}
    wanted = zip(renamed[others.name].tolist(), given[others.inputs].tolist(), strict=True)
    number = np.array([known.setdefault(key, len(known)) for key in wanted], np.int64)
    keys = np.array(list(known), np.int64).reshape(-1, 2)
    more = len(known) - len(groups.name)
    grown = {name: np.append(getattr(groups, name), np.zeros(more, np.int64)) for name in _SUMS}
    trace = msgspec.structs.replace(trace, names=list(names), inputs=[*trace.inputs, *source.trace.inputs])
    return (
        msgspec.structs.replace(facts, trace=trace),
        groups._replace(name=keys[:, 0], inputs=keys[:, 1], **grown),
        number,
    )


_SUMS = ("calls", "host_ns", "self_host_ns", "gpu_ns", "self_gpu_ns")
"""Sums per group, which are 0 for a group that only a capture trace has."""


def _added(
    facts: Facts, groups: OperatorGroups, region: CapturedRegion, others: OperatorGroups, number: Ints
) -> OperatorGroups:
    gpu, size = facts.trace.gpu, len(groups.name)
    duration = gpu.end_ns[region.event] - gpu.start_ns[region.event]
    mine = number[others.of_operator[region.operator]]
    before = groups.of_event[region.event]
    of_event = groups.of_event.copy()
    of_event[region.event] = mine
    self_gpu = groups.self_gpu_ns + np.bincount(mine, weights=duration, minlength=size).astype(np.int64)
    moved = before >= 0  # launched inside an operator, which keeps the event in its `gpu_ns`
    self_gpu -= np.bincount(before[moved], weights=duration[moved], minlength=size).astype(np.int64)
    forest = region.facts.ops
    is_outer = forest.outermost(others.of_operator)
    inner = with_inner(forest.parent, others.of_operator, is_outer, region.operator, duration, len(others.name))
    gpu_ns = groups.gpu_ns.copy()
    np.add.at(gpu_ns, number, inner)
    return groups._replace(of_event=of_event, self_gpu_ns=self_gpu, gpu_ns=gpu_ns)


def replay_notes(matches: ReplayMatches, capture: str) -> list[Trust]:
    """Return a note about the replays that match neither the trace nor the capture trace."""
    if matches.replays == 0:
        return [Trust("warning", f"--capture {capture}: the trace has no graph replays.")]
    if matches.unmatched == 0:
        return []
    of = f"{matches.unmatched:,} of {counted(matches.replays, 'graph replay')}"
    return [
        Trust(
            "warning",
            f"{of} match no launches in {capture} or in the trace: their kernels have other names or another order.",
        )
    ]
