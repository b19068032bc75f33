"""Collect the events of a trace in columns, batch after batch."""

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.categories import MODULE_FRAME, PROFILER_STEP, gpu_kind, host_kind
from roseinfer.trace.reading.column_builder import (
    DAY_US,
    Rows,
    drop_far_times,
    drop_stray_times,
    drop_zero_times,
    gpu_table,
    host_table,
)
from roseinfer.trace.reading.columns import (
    KERNEL,
    MAX_RANKS,
    NO_CORRELATION,
    SHORTEST_FRAME_US,
    Counts,
    Device,
    HostTable,
    OperatorInputs,
    Trace,
)
from roseinfer.trace.reading.event_schema import Id, Metadata, RawArgs, RawEvent
from roseinfer.trace.reading.event_stream import EventStream
from roseinfer.trace.reading.interner import Interner
from roseinfer.trace.reading.memory_events import MEMORY_CATEGORY, MemoryEvents
from roseinfer.trace.reading.messages import message_of
from roseinfer.trace.reading.platforms import device_name, platform_of
from roseinfer.trace.reading.process_split import process_label
from roseinfer.trace.reading.trace_limits import check_counts
from roseinfer.trace.summary.device_structs import Platform

OPS, SPANS, CALLS, OVERHEAD, PYTHON, IGNORED = "op", "span", "call", "overhead", "python", "ignored"

_PAIRED = ("B", "b")
"""Phases that begin an event whose end is a separate event. torch.profiler writes none; other tools do."""

_NO_ARGS = RawArgs()
_EARLIEST_NS, _LATEST_NS = 1_420_070_400_000_000_000, 4_102_444_800_000_000_000
"""Start of the years 2015, before torch.profiler existed, and 2100, in ns since 1970."""


class TraceBuilder:
    """Collects events by kind, and counts those that the analysis does not use."""

    def __init__(self) -> None:
        self.events = 0
        self.unknown = 0
        self.without_phase = 0
        self.python_functions = 0
        self.overhead_us = 0.0
        self.categories: set[str] = set()
        self.names = Interner()
        self.lanes = Interner()
        self.gpu_lanes = Interner()
        self.host = {OPS: Rows(inputs=np.int32), SPANS: Rows(), CALLS: Rows(correlation=np.int64)}
        self.frames, self.numbered_ops = Rows(), Rows(correlation=np.int64)
        self.gpu = Rows(correlation=np.int64, kind=np.int8, message=np.int32)
        self.message_ops = Rows(correlation=np.int64)
        self.messages = Interner()
        self.inputs = Interner()
        self.memory = MemoryEvents()

    @property
    def is_empty(self) -> bool:
        """True if no event so far is one that torch.profiler writes."""
        tables = (*self.host.values(), self.gpu)
        return self.python_functions == 0 and not any(len(part) for rows in tables for part in rows.parts["start"])

    def add(self, events: list[RawEvent]) -> None:
        """Add the next events of the file."""
        self.events += len(events)
        by_category: defaultdict[str | None, list[RawEvent]] = defaultdict(list)
        for event in events:
            by_category[event.cat].append(event)
        for category, group in by_category.items():
            self._add_group(category, group)

    @classmethod
    def of(cls, batches: Iterable[list[RawEvent]], path: Path) -> "TraceBuilder":
        """Collect batches of events. Raises TraceError, naming the file, as soon as they are too varied."""
        builder = cls()
        for events in batches:
            builder.add(events)
            builder.check(path)
        return builder

    def check(self, path: Path) -> None:
        """Raise TraceError if the events so far are more varied than any recording."""
        check_counts(
            path,
            devices=self.memory.num_devices,
            lanes=max(len(self.lanes), len(self.gpu_lanes)),
            names=len(self.names),
            inputs=len(self.inputs),
        )

    def absorb(self, later: "TraceBuilder") -> None:
        """Add the events of a later part of the same file, which another builder collected with its own numbers."""
        names, lanes = _renumbered(self.names, later.names), _renumbered(self.lanes, later.lanes)
        gpu_lanes = _renumbered(self.gpu_lanes, later.gpu_lanes)
        messages, inputs = _renumbered(self.messages, later.messages), _renumbered(self.inputs, later.inputs)
        for kind, rows in self.host.items():
            rows.extend(later.host[kind], name=names, lane=lanes, inputs=inputs)
        self.frames.extend(later.frames, name=names, lane=lanes)
        self.numbered_ops.extend(later.numbered_ops, name=names, lane=lanes)
        self.message_ops.extend(later.message_ops, name=names, lane=lanes, correlation=messages)
        self.gpu.extend(later.gpu, name=names, lane=gpu_lanes, message=messages)
        self.memory.absorb(later.memory, lanes)
        self.categories |= later.categories
        self.events += later.events
        self.unknown += later.unknown
        self.without_phase += later.without_phase
        self.python_functions += later.python_functions
        self.overhead_us += later.overhead_us

    def _add_group(self, category: str | None, group: list[RawEvent]) -> None:
        if category == "ac2g":
            return
        if category == MEMORY_CATEGORY:
            self.memory.add(group, self.lanes)
        complete = [event for event in group if event.ph == "X"]
        if len(complete) < len(group):
            self.unknown += sum(event.ph in _PAIRED for event in group)
            self.without_phase += sum(not event.ph for event in group)
            group = complete
        if not group:
            return
        key = category or ""
        self.categories.add(key)
        on_gpu, on_host = gpu_kind(key), host_kind(key)
        if on_gpu is not None:
            self._add_gpu(on_gpu, group)
        elif on_host is not None:
            self._add_host(on_host, group)
        else:
            self._add_uncategorized(group)

    def _add_uncategorized(self, group: list[RawEvent]) -> None:
        """Add events without a known category; torch.autograd.profiler writes none, but names the kind in the pid."""
        ops = [event for event in group if event.pid == "CPU functions"]
        kernels = [event for event in group if event.pid == "CUDA functions"]
        self.unknown += len(group) - len(ops) - len(kernels)
        self._add_host(OPS, ops)
        self._add_gpu(KERNEL, kernels)

    def _add_host(self, kind: str, group: list[RawEvent]) -> None:
        if kind == PYTHON:
            self.python_functions += len(group)
            kept = [e for e in group if e.dur >= SHORTEST_FRAME_US or (e.name or "").startswith(MODULE_FRAME)]
            self._add_rows(self.frames, kept)
        elif kind == OVERHEAD:
            self.overhead_us += sum(event.dur for event in group if 0 < event.dur < DAY_US)
        elif kind != IGNORED:
            own: dict[str, Any] = {}
            args = [event.args or _NO_ARGS for event in group]
            if kind == CALLS:
                own["correlation"] = _ids(arg.correlation for arg in args)
            elif kind == OPS:
                own["inputs"] = self._inputs(group, args)
            self._add_rows(self.host[kind], group, **own)
            if kind == OPS:
                self._add_details(group, args)

    def _add_details(self, group: list[RawEvent], args: list[RawArgs]) -> None:
        """Add the operators that tell of a collective, and those with a sequence number, to tables of their own."""
        talking = [event for event, arg in zip(group, args, strict=True) if arg.operation is not None]
        if talking:
            sent = [self.messages[message_of(event.args or _NO_ARGS)] for event in talking]
            self._add_rows(self.message_ops, talking, correlation=sent)
        numbered = [event for event, arg in zip(group, args, strict=True) if arg.sequence is not None]
        if numbered:
            self._add_rows(self.numbered_ops, numbered, correlation=[_sequence(event.args) for event in numbered])

    def _inputs(self, group: list[RawEvent], args: list[RawArgs]) -> Any:
        """Return the index of each operator's inputs, -1 for none."""
        dims = [arg.input_dims for arg in args]
        if not any(dims):
            return np.full(len(args), -1, np.int32)
        inputs = self.inputs
        return [
            inputs[
                bytes(shape),
                bytes(arg.input_types),
                bytes(arg.input_values) if event.name is not None and "conv" in event.name else b"",
            ]
            if shape
            else -1
            for event, arg, shape in zip(group, args, dims, strict=True)
        ]

    def _add_rows(self, rows: Rows, group: list[RawEvent], **own: Any) -> None:
        """Add events of the host. Without a duration they still tell what began; work of a device would be lost."""
        names, lanes = self.names, self.lanes
        duration = np.array([event.dur for event in group], np.float64)
        rows.add(
            ts=[event.ts for event in group],
            dur=np.where(np.isnan(duration), 0.0, duration),
            name=[names[event.name] for event in group],
            lane=[lanes[event.pid, event.tid] for event in group],
            **own,
        )

    def _add_gpu(self, kind: int, group: list[RawEvent]) -> None:
        names, lanes = self.names, self.gpu_lanes
        args = [event.args or _NO_ARGS for event in group]
        self.gpu.add(
            ts=[event.ts for event in group],
            dur=[event.dur for event in group],
            name=[names[event.name] for event in group],
            lane=[
                lanes[event.pid, arg.device, event.tid if arg.stream is None else arg.stream]
                for event, arg in zip(group, args, strict=True)
            ],
            correlation=_ids(arg.correlation for arg in args),
            kind=[kind] * len(group),
            message=[-1 if arg.operation is None else self.messages[message_of(arg)] for arg in args],
        )

    def _move_steps(self) -> None:
        """Move the profiler's steps from the operators, where torch 1.8 wrote them, to the spans."""
        steps = [index for name, index in self.names.items() if isinstance(name, str) and PROFILER_STEP.match(name)]
        ops, spans = self.host[OPS], self.host[SPANS]
        if steps and not any(bool(np.isin(part, steps).any()) for part in spans.parts["name"]):
            ops.move_named(steps, spans)

    def _sort_threads(self) -> list[Any]:
        """Number the threads in the order of their names, and return these.

        In which order they were first seen depends on where the file was cut into batches and parts.
        """
        seen = list(self.lanes)
        order = sorted(range(len(seen)), key=lambda lane: _thread_key(seen[lane]))
        numbers = np.empty(len(seen), np.int32)
        numbers[order] = np.arange(len(seen), dtype=np.int32)
        for rows in (*self.host.values(), self.frames, self.numbered_ops, self.message_ops):
            rows.renumber("lane", numbers)
        self.memory.renumber_threads(numbers)
        return [seen[lane] for lane in order]

    def finish(self, path: Path, stream: EventStream) -> Trace:
        """Return the trace, once all events are added. May be called once."""
        parts = [self.host[OPS], self.host[SPANS], self.host[CALLS], self.gpu]
        self._move_steps()
        calls = {name for name in self.names if isinstance(name, str) and name.startswith("hip")}
        platform = platform_of(sorted(self.categories), calls, stream.metadata)
        drop_zero_times(self.gpu)
        first_ns = drop_stray_times(parts)
        if not self.inputs:
            self.host[OPS].pop_column("inputs")
            self.host[OPS].dtypes.pop("inputs")
        for rows in (self.frames, self.numbered_ops, self.message_ops):
            drop_far_times(rows, first_ns)
        devices, lane_device, lane_stream = _devices(list(self.gpu_lanes))
        check_counts(path, devices=len(devices))
        threads = self._sort_threads()
        memory, memory_devices = self.memory.finish(first_ns)
        return Trace(
            path=str(path),
            size_bytes=stream.source.size_bytes,
            names=["(no name)" if name is None else name for name in self.names],
            threads=threads,
            thread_files=[0] * len(threads),
            file_ranks=[_rank_of(stream.metadata)],
            file_origins_ns=[first_ns + max(_parsed_id(stream.metadata.baseTimeNanoseconds or 0), 0)],
            ranks_known=["rank" in stream.metadata.distributedInfo],
            device_files=[0] * len(devices),
            devices=[_device(label, one, stream.metadata, platform) for label, one in devices],
            platform=platform,
            ops=host_table(self.host[OPS], first_ns),
            spans=host_table(self.host[SPANS], first_ns),
            calls=host_table(self.host[CALLS], first_ns),
            message_ops=host_table(self.message_ops, first_ns),
            messages=list(self.messages),
            numbered_ops=_backward_only(host_table(self.numbered_ops, first_ns)),
            frames=host_table(self.frames, first_ns),
            inputs=[OperatorInputs(*(text.decode("utf-8", "replace") for text in texts)) for texts in self.inputs],
            memory=memory,
            memory_devices=memory_devices,
            gpu=gpu_table(self.gpu, first_ns, lane_device, lane_stream),
            dropped_gpu=np.concatenate((np.zeros(0, np.int64), *self.gpu.dropped_ids)),
            metadata=stream.metadata,
            counts=Counts(
                events=self.events,
                damaged=stream.damaged,
                dropped=sum(rows.dropped for rows in parts),
                zero_times=sum(rows.zero_times for rows in parts),
                unknown=self.unknown,
                python_functions=self.python_functions,
                profiler_overhead_ns=round(self.overhead_us * 1000),
            ),
            truncated=stream.truncated,
            started_unix_ns=_unix_time(first_ns, stream.metadata),
        )


def _thread_key(thread: tuple[Any, Any]) -> tuple[tuple[bool, Any], ...]:
    """Return a key that sorts threads by process and thread: numbers first, then other names."""
    return tuple((False, part) if type(part) is int else (True, repr(part)) for part in thread)


def _renumbered(mine: Interner, theirs: Interner) -> NDArray[np.int32]:
    """Return the number in `mine` of each thing that `theirs` numbers, followed by -1, which -1 indexes."""
    return np.array([*(mine[key] for key in theirs), -1], np.int32)


def _ids(values: Iterable[Id]) -> list[int]:
    """Return correlation ids as integers, parsed if written as strings; NO_CORRELATION for anything else."""
    return [value if type(value) is int and 0 < value < 1 << 62 else _parsed_id(value) for value in values]


def _parsed_id(value: Id) -> int:
    try:
        number = int(value) if value is not None else 0
    except (TypeError, ValueError, OverflowError):
        return NO_CORRELATION
    return number if 0 < number < 1 << 62 else NO_CORRELATION


def _sequence(args: RawArgs | None) -> int:
    """Return an operator's sequence number plus 1, negative in a backward pass, and 0 for no number."""
    known = args or _NO_ARGS
    number = _whole(known.sequence)
    return 0 if number < 0 else -number - 1 if _whole(known.forward_thread) > 0 else number + 1


def _whole(value: Id) -> int:
    """Return a number that may be written as a string, or -1."""
    if isinstance(value, str):
        value = int(value) if value.isdecimal() and len(value) < 18 else -1
    return value if isinstance(value, int) and -1 <= value < 1 << 60 else -1


def _backward_only(numbered: HostTable) -> HostTable:
    """Return the table, or an empty one if it has no operators of a backward pass."""
    if np.any(numbered.correlation < 0):
        return numbered
    return HostTable(*(getattr(numbered, name)[:0] for name in HostTable.__struct_fields__))


def _devices(
    lanes: list[tuple[Id, Id, Id]],
) -> tuple[list[tuple[str, int]], NDArray[np.int32], NDArray[np.int32]]:
    """Return (devices in ascending order, device index of each lane, stream index of each lane).

    A lane is a (pid, device, stream) triple; a device is a (label of its process, device id) pair. Without labels,
    events of equal device ids and different pids are of several devices: each merged rank may see its device as 0.
    """
    ids = [(process_label(pid), _small_id(pid if device is None else device)) for pid, device, _ in lanes]
    keys = [(*one, "" if one[0] else str(pid)) for one, (pid, _, _) in zip(ids, lanes, strict=True)]
    devices = sorted(set(keys), key=lambda key: (key[:2], len(key[2]), key[2]))
    streams = Interner()
    return (
        [(label, device) for label, device, _ in devices],
        np.array([devices.index(key) for key in keys], np.int32),
        np.array([streams[stream] for _, _, stream in lanes], np.int32),
    )


def _device(label: str, device: int, metadata: Metadata, platform: Platform) -> Device:
    known = {_small_id(properties.id): properties for properties in metadata.deviceProperties}
    name = device_name(known.get(device), metadata, platform)
    return Device(id=device, rank=_rank_of(metadata), name=name, process=label)


def _unix_time(first_ns: int, metadata: Metadata) -> int | None:
    """Return the time of the first event since 1970, or None if it is no plausible time of a recording."""
    base = _parsed_id(metadata.baseTimeNanoseconds) if metadata.baseTimeNanoseconds else 0
    started = first_ns + max(base, 0)
    return started if _EARLIEST_NS <= started < _LATEST_NS else None


def _rank_of(metadata: Metadata) -> int:
    """Return the rank of the process that recorded the trace, 0 if the trace has none, or an impossible one."""
    rank = _small_id(metadata.distributedInfo.get("rank", 0))
    return rank if rank < MAX_RANKS else 0


def _small_id(value: Id) -> int:
    number = _parsed_id(value) if not isinstance(value, float) or math.isfinite(value) else NO_CORRELATION
    return max(number, 0)
