"""Assign the GPU events and the host time of a trace to its operators, by name and inputs."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.innermost import innermost_at
from roseinfer.trace.facts.operator_inputs import parse_inputs
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32, OperatorInputs


class OperatorGroups(NamedTuple):
    """Calls of operators with the same name and the same inputs. Arrays have one entry per group, unless said."""

    name: Ints
    """Index into `trace.names`."""
    inputs: Ints
    """Index into `trace.inputs`, -1 if they are not recorded."""
    calls: Ints
    host_ns: Ints
    """Time of the calls; recursive calls count once."""
    self_host_ns: Ints
    gpu_ns: Ints
    """Durations of the GPU events launched in the calls, also by inner operators."""
    self_gpu_ns: Ints
    of_event: Ints
    """Per GPU event: group of the innermost operator around its launch, -1 for none."""
    of_operator: Ints32
    """Per operator: its group."""


def operator_groups(facts: Facts) -> OperatorGroups:
    """Group the operators of a trace, and add up their time on the host and on the devices."""
    trace, forest = facts.trace, facts.ops
    inputs = _same_tensors(trace.inputs)[trace.ops.inputs] if len(trace.ops.inputs) else np.full(len(trace.ops), -1)
    group, name, given = _grouped(trace.ops.name, inputs)
    size = len(name)
    is_outer = forest.outermost(group)
    host = np.bincount(group, weights=(forest.end_ns - forest.start_ns) * is_outer, minlength=size)
    op = operator_of_events(facts)
    duration = trace.gpu.end_ns - trace.gpu.start_ns
    known = op >= 0
    own = np.bincount(op[known], weights=duration[known], minlength=len(group))
    launching = np.flatnonzero(own)
    return OperatorGroups(
        name=name,
        inputs=given,
        calls=np.bincount(group, minlength=size),
        host_ns=host.astype(np.int64),
        self_host_ns=np.bincount(group, weights=forest.self_ns, minlength=size).astype(np.int64),
        gpu_ns=with_inner(forest.parent, group, is_outer, launching, own[launching], size),
        self_gpu_ns=np.bincount(group[launching], weights=own[launching], minlength=size).astype(np.int64),
        of_event=np.where(known, np.append(group, -1)[op], -1).astype(np.int64),
        of_operator=group,
    )


def operator_of_events(facts: Facts) -> Ints:
    """Return, per GPU event, the index of the innermost operator around its launch in `trace.ops`, -1 for none."""
    trace, attribution = facts.trace, facts.attribution
    calls = np.flatnonzero(attribution.answered)
    around = np.full(len(trace.calls) + 1, -1, np.int64)
    around[calls] = innermost_at(facts.ops, trace.ops.thread, trace.calls.thread[calls], trace.calls.start_ns[calls])
    return around[attribution.launch]


def _same_tensors(inputs: list[OperatorInputs]) -> Ints:
    """Return, per entry of `trace.inputs`, the first with the same tensors; -1 for an index of -1."""
    first: dict[tuple[str, str, str], int] = {}
    found = [first.setdefault(_tensors(one), index) for index, one in enumerate(inputs)]
    return np.array([*found, -1], np.int64)


def _tensors(inputs: OperatorInputs) -> tuple[str, str, str]:
    parsed = parse_inputs(inputs)
    return (parsed.shapes, parsed.dtypes, inputs.values) if parsed else (inputs.dims, inputs.types, inputs.values)


def _grouped(name: Ints32, inputs: Ints) -> tuple[Ints32, Ints, Ints]:
    """Return (group of each operator, name of each group, inputs of each group)."""
    width = int(inputs.max(initial=-1)) + 2
    key = name.astype(np.int64) * width + inputs + 1 if width > 1 else name
    is_used = np.zeros(int(key.max(initial=-1)) + 1, np.bool_)
    is_used[key] = True
    used = np.flatnonzero(is_used)
    number = (np.cumsum(is_used) - 1).astype(np.int32)
    return number[key], used // width, used % width - 1


def with_inner(
    parent: Ints32, group: Ints32, is_outer: NDArray[np.bool_], op: Ints, values: NDArray[np.float64] | Ints, size: int
) -> Ints:
    """Return, per group, the sum of the values of its operators and of all operators inside them.

    A value counts once for a group, at the outermost of the nested operators of that group.
    """
    total = np.zeros(size, np.float64)
    while len(op):
        counts = is_outer[op]
        total += np.bincount(group[op[counts]], weights=values[counts], minlength=size)
        op = parent[op].astype(np.int64)
        op, values = op[op >= 0], values[op >= 0]
    return total.astype(np.int64)
