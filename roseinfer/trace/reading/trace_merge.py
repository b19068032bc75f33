"""Merge several trace files into one trace."""

import msgspec
import numpy as np

from roseinfer.trace.reading.columns import (
    NO_CORRELATION,
    Counts,
    GpuTable,
    HostTable,
    Ints,
    Ints32,
    MemoryDevice,
    MemoryTable,
    Message,
    OperatorInputs,
    Trace,
)


def merge_traces(traces: list[Trace], path: str, notes: list[str] | None = None) -> Trace:
    """Merge traces of several files, shifted in time so that they follow each other.

    Threads, devices and correlation ids of different files stay distinct. Time between two files is in no figure.
    """
    if len(traces) == 1:
        return msgspec.structs.replace(traces[0], notes=notes) if notes else traces[0]
    names: dict[str, int] = {}
    messages: dict[Message, int] = {}
    host: dict[str, list[HostTable]] = {"ops": [], "spans": [], "calls": [], "frames": []}
    inputs: dict[OperatorInputs, int] = {}
    memory: list[MemoryTable] = []
    memory_devices: list[MemoryDevice] = []
    numbered: list[HostTable] = []
    talking: list[HostTable] = []
    gpu: list[GpuTable] = []
    dropped: list[Ints] = []
    shifts: list[int] = []
    shift = first_id = first_number = threads = devices = files = 0
    for trace in traces:
        shifts.append(shift)
        renamed = np.array([names.setdefault(name, len(names)) for name in trace.names], np.int32)
        said = np.array([messages.setdefault(one, len(messages)) for one in trace.messages] + [-1], np.int32)
        for kind, tables in host.items():
            tables.append(_shifted(getattr(trace, kind), shift, first_id, renamed, threads))
        given = np.array([inputs.setdefault(one, len(inputs)) for one in trace.inputs] + [-1], np.int32)
        host["ops"][-1] = _with_inputs(host["ops"][-1], given, any(one.inputs for one in traces))
        memory.append(_shifted_memory(trace.memory, shift, threads, len(memory_devices)))
        memory_devices += [MemoryDevice(one.id, one.file + files) for one in trace.memory_devices]
        files += len(trace.file_ranks)
        numbered.append(_shifted_numbers(_shifted(trace.numbered_ops, shift, 0, renamed, threads), first_number))
        ops = _shifted(trace.message_ops, shift, 0, renamed, threads)
        talking.append(msgspec.structs.replace(ops, correlation=said[ops.correlation].astype(np.int64)))
        gpu.append(_shifted_gpu(trace.gpu, shift, first_id, renamed, devices, said))
        dropped.append(_shifted_ids(trace.dropped_gpu, first_id))
        tables_here = (trace.ops, trace.spans, trace.calls, trace.gpu)
        shift += max((int(table.end_ns.max()) for table in tables_here if len(table)), default=0) + 1_000_000  # ns
        ids = np.concatenate((trace.calls.correlation, trace.gpu.correlation))
        first_id += int(ids.max(initial=0)) + 1
        first_number += int(np.abs(trace.numbered_ops.correlation).max(initial=0))
        threads += len(trace.threads)
        devices += len(trace.devices)
    cut = [trace.path for trace in traces if trace.truncated]
    first_file = np.cumsum([0, *(len(trace.file_ranks) for trace in traces)]).tolist()
    origins = [origin - shift for trace, shift in zip(traces, shifts, strict=True) for origin in trace.file_origins_ns]
    return Trace(
        path=path,
        size_bytes=sum(trace.size_bytes for trace in traces),
        names=list(names),
        threads=[(f"{index}:{pid}", tid) for index, trace in enumerate(traces) for pid, tid in trace.threads],
        thread_files=[first_file[at] + file for at, trace in enumerate(traces) for file in trace.thread_files],
        file_ranks=[rank for trace in traces for rank in trace.file_ranks],
        file_origins_ns=origins,
        ranks_known=[known for trace in traces for known in trace.ranks_known],
        devices=[device for trace in traces for device in trace.devices],
        device_files=[first_file[at] + file for at, trace in enumerate(traces) for file in trace.device_files],
        platform=next((trace.platform for trace in traces if len(trace.gpu)), traces[0].platform),
        ops=_joined(host["ops"]),
        spans=_joined(host["spans"]),
        calls=_joined(host["calls"]),
        message_ops=_joined(talking),
        messages=list(messages),
        numbered_ops=_joined(numbered),
        frames=_joined(host["frames"]),
        inputs=list(inputs),
        memory=_joined_memory(memory),
        memory_devices=memory_devices,
        gpu=_joined_gpu(gpu),
        dropped_gpu=np.concatenate(dropped),
        metadata=traces[0].metadata,
        counts=Counts(*(sum(getattr(trace.counts, name) for trace in traces) for name in Counts.__struct_fields__)),
        started_unix_ns=min((one.started_unix_ns for one in traces if one.started_unix_ns is not None), default=None),
        truncated=f"{len(cut)} of {len(traces)} files are truncated, first {cut[0]}" if cut else None,
        notes=notes or [],
    )


def _shifted_ids(correlation: Ints, first_id: int) -> Ints:
    return np.where(correlation == NO_CORRELATION, NO_CORRELATION, correlation + first_id)


def _shifted_numbers(table: HostTable, first_number: int) -> HostTable:
    """Keep the sequence numbers of different files distinct."""
    number = table.correlation
    return msgspec.structs.replace(table, correlation=number + np.sign(number) * first_number)


def _shifted(table: HostTable, shift: int, first_id: int, renamed: Ints32, threads: int) -> HostTable:
    return HostTable(
        start_ns=table.start_ns + shift,
        end_ns=table.end_ns + shift,
        name=renamed[table.name] if len(table) else table.name,
        thread=table.thread + np.int32(threads),
        correlation=_shifted_ids(table.correlation, first_id),
        inputs=table.inputs,
    )


def _shifted_gpu(table: GpuTable, shift: int, first_id: int, renamed: Ints32, devices: int, said: Ints32) -> GpuTable:
    return GpuTable(
        start_ns=table.start_ns + shift,
        end_ns=table.end_ns + shift,
        name=renamed[table.name] if len(table) else table.name,
        device=table.device + np.int32(devices),
        stream=table.stream,
        kind=table.kind,
        correlation=_shifted_ids(table.correlation, first_id),
        message=said[table.message],
    )


def _with_inputs(table: HostTable, given: Ints32, is_recorded: bool) -> HostTable:
    """Renumber the inputs of operators; a file without shapes gets -1 if another file has shapes."""
    if len(table.inputs):
        return msgspec.structs.replace(table, inputs=given[table.inputs])
    return msgspec.structs.replace(table, inputs=np.full(len(table), -1, np.int32)) if is_recorded else table


def _shifted_memory(table: MemoryTable, shift: int, threads: int, devices: int) -> MemoryTable:
    return msgspec.structs.replace(
        table,
        time_ns=table.time_ns + shift,
        thread=table.thread + np.int32(threads),
        device=table.device + np.int32(devices),
    )


def _joined_memory(tables: list[MemoryTable]) -> MemoryTable:
    return MemoryTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in MemoryTable.__struct_fields__)
    )


def _joined(tables: list[HostTable]) -> HostTable:
    return HostTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in HostTable.__struct_fields__)
    )


def _joined_gpu(tables: list[GpuTable]) -> GpuTable:
    return GpuTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in GpuTable.__struct_fields__)
    )
