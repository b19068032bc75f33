"""Merge several trace files into one trace."""

import msgspec
import numpy as np

from roseinfer.trace.reading.columns import NO_CORRELATION, Counts, GpuTable, HostTable, Ints, Ints32, Trace


def merge_traces(traces: list[Trace], path: str) -> Trace:
    """Merge traces of several files, shifted in time so that they follow each other.

    Threads, devices and correlation ids of different files stay distinct. Time between two files is in no figure.
    """
    if len(traces) == 1:
        return traces[0]
    names: dict[str, int] = {}
    host: dict[str, list[HostTable]] = {"ops": [], "spans": [], "calls": [], "frames": []}
    numbered: list[HostTable] = []
    gpu: list[GpuTable] = []
    dropped: list[Ints] = []
    shift = first_id = first_number = threads = devices = 0
    for trace in traces:
        renamed = np.array([names.setdefault(name, len(names)) for name in trace.names], np.int32)
        for kind, tables in host.items():
            tables.append(_shifted(getattr(trace, kind), shift, first_id, renamed, threads))
        numbered.append(_shifted_numbers(_shifted(trace.numbered_ops, shift, 0, renamed, threads), first_number))
        gpu.append(_shifted_gpu(trace.gpu, shift, first_id, renamed, devices))
        dropped.append(_shifted_ids(trace.dropped_gpu, first_id))
        tables_here = (trace.ops, trace.spans, trace.calls, trace.gpu)
        shift += max((int(table.end_ns.max()) for table in tables_here if len(table)), default=0) + 1_000_000  # ns
        ids = np.concatenate((trace.calls.correlation, trace.gpu.correlation))
        first_id += int(ids.max(initial=0)) + 1
        first_number += int(np.abs(trace.numbered_ops.correlation).max(initial=0))
        threads += len(trace.threads)
        devices += len(trace.devices)
    cut = [trace.path for trace in traces if trace.truncated]
    return Trace(
        path=path,
        size_bytes=sum(trace.size_bytes for trace in traces),
        names=list(names),
        threads=[(f"{index}:{pid}", tid) for index, trace in enumerate(traces) for pid, tid in trace.threads],
        thread_files=[index for index, trace in enumerate(traces) for _ in trace.threads],
        file_ranks=[trace.file_ranks[0] for trace in traces],
        devices=[device for trace in traces for device in trace.devices],
        device_files=[index for index, trace in enumerate(traces) for _ in trace.devices],
        platform=next((trace.platform for trace in traces if len(trace.gpu)), traces[0].platform),
        ops=_joined(host["ops"]),
        spans=_joined(host["spans"]),
        calls=_joined(host["calls"]),
        numbered_ops=_joined(numbered),
        frames=_joined(host["frames"]),
        gpu=_joined_gpu(gpu),
        dropped_gpu=np.concatenate(dropped),
        metadata=traces[0].metadata,
        counts=Counts(*(sum(getattr(trace.counts, name) for trace in traces) for name in Counts.__struct_fields__)),
        started_unix_ns=min((one.started_unix_ns for one in traces if one.started_unix_ns is not None), default=None),
        truncated=f"{len(cut)} of {len(traces)} files are truncated, first {cut[0]}" if cut else None,
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
    )


def _shifted_gpu(table: GpuTable, shift: int, first_id: int, renamed: Ints32, devices: int) -> GpuTable:
    return GpuTable(
        start_ns=table.start_ns + shift,
        end_ns=table.end_ns + shift,
        name=renamed[table.name] if len(table) else table.name,
        device=table.device + np.int32(devices),
        stream=table.stream,
        kind=table.kind,
        correlation=_shifted_ids(table.correlation, first_id),
    )


def _joined(tables: list[HostTable]) -> HostTable:
    return HostTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in HostTable.__struct_fields__)
    )


def _joined_gpu(tables: list[GpuTable]) -> GpuTable:
    return GpuTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in GpuTable.__struct_fields__)
    )
