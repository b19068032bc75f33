"""Several files as one trace, and what each rank did: skew and exposed communication."""

import msgspec
import numpy as np

from roseinfer.trace.columns import NO_CORRELATION, Counts, GpuTable, HostTable, Ints, Small, Trace
from roseinfer.trace.facts import Facts
from roseinfer.trace.intervals import length, union
from roseinfer.trace.summary import RankSummary, to_ms, to_percent

_COLLECTIVES = ("nccl", "rccl", "allreduce", "all_reduce", "allgather", "reduce_scatter", "alltoall", "multimem")


def merge(traces: list[Trace], path: str) -> Trace:
    """One trace out of several files; each file keeps its own threads and devices, so no time between files counts.

    Files are laid out one after another in time, and their correlation ids are kept apart.
    """
    if len(traces) == 1:
        return traces[0]
    names: dict[str, int] = {}
    host: dict[str, list[HostTable]] = {"ops": [], "spans": [], "calls": []}
    gpu: list[GpuTable] = []
    shift = first_id = threads = devices = 0
    for trace in traces:
        renamed = np.array([names.setdefault(name, len(names)) for name in trace.names], np.int32)
        for kind, tables in host.items():
            tables.append(_moved(getattr(trace, kind), shift, first_id, renamed, threads))
        gpu.append(_moved_gpu(trace.gpu, shift, first_id, renamed, devices))
        tables_here = (trace.ops, trace.spans, trace.calls, trace.gpu)
        shift += max((int(table.end_ns.max()) for table in tables_here if len(table)), default=0) + 1_000_000
        ids = np.concatenate((trace.calls.correlation, trace.gpu.correlation))
        first_id += int(ids.max(initial=0)) + 1
        threads += len(trace.threads)
        devices += len(trace.devices)
    broken = [trace.path for trace in traces if trace.truncated]
    return Trace(
        path=path,
        size_bytes=sum(trace.size_bytes for trace in traces),
        names=list(names),
        threads=[(f"{index}:{pid}", tid) for index, trace in enumerate(traces) for pid, tid in trace.threads],
        thread_files=[index for index, trace in enumerate(traces) for _ in trace.threads],
        file_ranks=[trace.file_ranks[0] for trace in traces],
        devices=[device for trace in traces for device in trace.devices],
        ops=_joined(host["ops"]),
        spans=_joined(host["spans"]),
        calls=_joined(host["calls"]),
        gpu=_joined_gpu(gpu),
        metadata=traces[0].metadata,
        counts=Counts(*(sum(getattr(trace.counts, name) for trace in traces) for name in Counts.__struct_fields__)),
        truncated=f"{len(broken)} of {len(traces)} files break off, first {broken[0]}" if broken else None,
    )


def _moved_ids(correlation: Ints, first_id: int) -> Ints:
    return np.where(correlation == NO_CORRELATION, NO_CORRELATION, correlation + first_id)


def _moved(table: HostTable, shift: int, first_id: int, renamed: Small, threads: int) -> HostTable:
    return HostTable(
        start_ns=table.start_ns + shift,
        end_ns=table.end_ns + shift,
        name=renamed[table.name] if len(table) else table.name,
        thread=table.thread + np.int32(threads),
        correlation=_moved_ids(table.correlation, first_id),
    )


def _moved_gpu(table: GpuTable, shift: int, first_id: int, renamed: Small, devices: int) -> GpuTable:
    return GpuTable(
        start_ns=table.start_ns + shift,
        end_ns=table.end_ns + shift,
        name=renamed[table.name] if len(table) else table.name,
        device=table.device + np.int32(devices),
        stream=table.stream,
        kind=table.kind,
        correlation=_moved_ids(table.correlation, first_id),
    )


def _joined(tables: list[HostTable]) -> HostTable:
    return HostTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in HostTable.__struct_fields__)
    )


def _joined_gpu(tables: list[GpuTable]) -> GpuTable:
    return GpuTable(
        *(np.concatenate([getattr(table, name) for table in tables]) for name in GpuTable.__struct_fields__)
    )


class _Times(msgspec.Struct):
    window: int = 0
    busy: int = 0
    gpu: int = 0
    communication: int = 0
    exposed: int = 0


def summarize_ranks(facts: Facts) -> list[RankSummary]:
    """One row a rank, where there are several or where collectives ran."""
    trace = facts.trace
    step_ranks = [trace.file_ranks[trace.thread_files[thread]] for thread in facts.steps.thread.tolist()]
    ranks = sorted({device.rank for device in trace.devices} | set(trace.file_ranks))
    collective = [index for index, name in enumerate(trace.names) if _is_collective(name)]
    durations = facts.steps.end_ns - facts.steps.start_ns
    rows: list[RankSummary] = []
    for rank in ranks:
        times = _Times()
        for index, device in enumerate(trace.devices):
            if device.rank == rank:
                _add(times, trace.gpu, index, collective)
        at = [index for index, one in enumerate(step_ranks) if one == rank]
        rows.append(
            RankSummary(
                rank=rank,
                median_step_ms=to_ms(np.median(durations[at])) if at else None,
                busy_percent=to_percent(times.busy, times.window) if times.window else None,
                gpu_ms=to_ms(times.gpu),
                communication_ms=to_ms(times.communication),
                exposed_communication_ms=to_ms(times.exposed),
            )
        )
    return rows if len(rows) > 1 or any(row.communication_ms for row in rows) else []


def _is_collective(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in _COLLECTIVES)


def _add(times: _Times, gpu: GpuTable, device: int, collective: list[int]) -> None:
    low, high = np.searchsorted(gpu.device, (device, device + 1))
    if low == high:
        return
    start, end = gpu.start_ns[low:high], gpu.end_ns[low:high]
    is_collective = np.isin(gpu.name[low:high], collective)
    busy = length(*union(start, end))
    times.window += int(end.max() - start.min())
    times.busy += busy
    times.gpu += int((end - start).sum())
    times.communication += length(*union(start[is_collective], end[is_collective]))
    times.exposed += busy - length(*union(start[~is_collective], end[~is_collective]))
