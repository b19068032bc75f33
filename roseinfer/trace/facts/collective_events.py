"""Collect the collectives of all ranks: kernels of devices and, on a CPU, spans or operators of the backend."""

import re
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.collectives import function_name, is_collective
from roseinfer.trace.facts.cpu_work import cpu_work
from roseinfer.trace.facts.data_loading import loading_table
from roseinfer.trace.facts.device_work import device_work
from roseinfer.trace.facts.innermost import innermost_at
from roseinfer.trace.facts.nesting import nest
from roseinfer.trace.facts.steps import steps_at
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32

_OF_BACKEND = re.compile(r"^(?:gloo|mpi|ucc|[nrxh]ccl):")
"""Spans that a backend of torch.distributed opens around its work, on a thread of its own."""


class Sequence(NamedTuple):
    """Key of collectives that run in the same order on all ranks of a group."""

    group: str
    """Name of the process group; empty if it is not recorded."""
    ranks: str
    """Ranks of the group as written in the file; empty if they are not recorded."""
    kind: str
    """Name of the collectives if the group is not recorded, else empty: a group runs all its kinds in one order."""


class CollectiveEvents(msgspec.Struct, frozen=True, eq=False):
    """Collectives of all ranks, sorted by (file, start). Every array has one entry per event."""

    file: Ints32
    """Index into `trace.file_ranks`."""
    start_ns: Ints
    end_ns: Ints
    kind: Ints32
    """Index of the operation in `kinds`."""
    sequence: Ints32
    """Index into `sequences`."""
    message: Ints32
    """Index into `trace.messages`, -1 if it is not recorded."""
    step: Ints
    """Index of the step, -1 for none."""
    kinds: list[str]
    sequences: list[Sequence]
    computing: dict[int, tuple[Ints, Ints]]
    """Per file with collectives: times in which its device computes, sorted and disjoint."""

    def __len__(self) -> int:
        return len(self.file)


class _Part(NamedTuple):
    file: Ints32
    start_ns: Ints
    end_ns: Ints
    name: NDArray[np.int64]
    """Index into the names of the trace, followed by the names of span groups."""
    message: Ints32
    step: Ints


def collective_events(facts: Facts) -> CollectiveEvents:
    """Return the collectives of a trace, in the order of each rank."""
    parts: list[_Part] = []
    computing: dict[int, tuple[Ints, Ints]] = {}
    names = [*facts.trace.names, *facts.spans.groups]
    if any(is_collective(name) for name in names):
        parts, computing = _on_devices(facts)
        busy = {facts.trace.device_files[device] for device in np.unique(facts.trace.gpu.device).tolist()}
        on_cpu = [(file, _on_cpu(facts, file)) for file in range(len(facts.trace.file_ranks)) if file not in busy]
        loading = loading_table(facts) if on_cpu else None
        for file, part in on_cpu:
            if part is not None and loading is not None:
                parts.append(part)
                computing[file] = cpu_work(facts, file, loading).compute
    if not parts:
        none, none32 = np.zeros(0, np.int64), np.zeros(0, np.int32)
        parts = [_Part(none32, none, none, none, none32, none)]
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((_Part(*columns).start_ns, _Part(*columns).file))
    every = _Part(*[column[order] for column in columns])
    keys = list(zip(every.name.tolist(), every.message.tolist(), strict=True))
    named = {key: _key_of(facts, names, *key) for key in dict.fromkeys(keys)}
    kinds = {kind: index for index, kind in enumerate(dict.fromkeys(kind for kind, _ in named.values()))}
    sequences = {key: index for index, key in enumerate(dict.fromkeys(sequence for _, sequence in named.values()))}
    return CollectiveEvents(
        file=every.file,
        start_ns=every.start_ns,
        end_ns=every.end_ns,
        kind=np.array([kinds[named[key][0]] for key in keys], np.int32),
        sequence=np.array([sequences[named[key][1]] for key in keys], np.int32),
        message=every.message,
        step=every.step,
        kinds=list(kinds),
        sequences=list(sequences),
        computing=computing,
    )


def _key_of(facts: Facts, names: list[str], name: int, message: int) -> tuple[str, Sequence]:
    """Return (operation, sequence) of a collective with a name and a message, -1 for none."""
    kind = function_name(names[name])
    if message < 0:
        return kind, Sequence("", "", kind)
    sent = facts.trace.messages[message]
    if sent.group or sent.ranks:
        return sent.operation or kind, Sequence(sent.group, sent.ranks, "")
    return sent.operation or kind, Sequence("", "", kind)


def _on_devices(facts: Facts) -> tuple[list[_Part], dict[int, tuple[Ints, Ints]]]:
    trace, parts = facts.trace, []
    computing: dict[int, tuple[Ints, Ints]] = {}
    for device in np.unique(trace.gpu.device).tolist():
        work = device_work(trace, device)
        at = work.collectives
        if len(at) == 0:
            continue
        file = trace.device_files[device]
        # Of several devices in one process, the first with collectives stands for the rank.
        if file in computing:
            continue
        computing[file] = work.compute
        parts.append(
            _Part(
                file=np.full(len(at), file, np.int32),
                start_ns=trace.gpu.start_ns[at],
                end_ns=trace.gpu.end_ns[at],
                name=trace.gpu.name[at].astype(np.int64),
                message=_messages(facts, at),
                step=facts.event_step[at],
            )
        )
    return parts, computing


def _messages(facts: Facts, at: Ints) -> Ints32:
    """Return the message of each GPU event: its own, else that of the operator around its launch, -1 for none."""
    trace, attribution = facts.trace, facts.attribution
    message = trace.gpu.message[at].copy()
    ops = trace.message_ops
    lost = np.flatnonzero((message < 0) & attribution.linked[at] & ~attribution.by_graph[at])
    if len(ops) == 0 or len(lost) == 0:
        return message
    event = at[lost]
    around = innermost_at(
        nest(ops.start_ns, ops.end_ns, ops.thread),
        ops.thread,
        attribution.thread[event],
        attribution.launch_start_ns[event],
    )
    message[lost] = np.append(ops.correlation, -1)[around]
    return message


def _on_cpu(facts: Facts, file: int) -> _Part | None:
    """Return the collectives of a file without work of a device; None without any."""
    trace, spans = facts.trace, facts.spans
    mine = np.array(trace.thread_files, np.int32) == file
    of_backend = [index for index, name in enumerate(spans.groups) if is_collective(name) and _OF_BACKEND.match(name)]
    at = np.flatnonzero(np.isin(spans.group, of_backend) & mine[spans.thread])
    if len(at):
        start, end, name = spans.start_ns[at], spans.end_ns[at], spans.group[at].astype(np.int64) + len(trace.names)
    else:
        talks = np.array([is_collective(one) for one in trace.names], np.bool_)
        inside = np.append(talks[trace.ops.name], False)[facts.ops.parent] if len(trace.ops) else talks[:0]
        at = np.flatnonzero(talks[trace.ops.name] & mine[trace.ops.thread] & ~inside)
        start, end, name = facts.ops.start_ns[at], facts.ops.end_ns[at], trace.ops.name[at].astype(np.int64)
    if len(at) == 0:
        return None
    return _Part(
        file=np.full(len(at), file, np.int32),
        start_ns=start,
        end_ns=end,
        name=name,
        message=np.full(len(at), -1, np.int32),
        step=steps_at(facts.steps, start),
    )
