"""Step time, GPU time and exposed communication of each rank."""

import msgspec
import numpy as np

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.facts.intervals import length, union
from roseinfer.trace.facts.job_times import JobTimes
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import GpuTable
from roseinfer.trace.summary.device_structs import RankSummary
from roseinfer.trace.summary.units import to_ms, to_percent


class _Times(msgspec.Struct):
    """Sums over the devices of one rank, in ns."""

    window: int = 0
    busy: int = 0
    gpu: int = 0
    communication: int = 0
    exposed: int = 0


def summarize_ranks(facts: Facts, durations: JobTimes) -> list[RankSummary]:
    """Return one row per rank; no rows for a single rank without collectives."""
    trace, times, step_rank = facts.trace, facts.step_times, facts.step_rank
    ranks = sorted({device.rank for device in trace.devices} | set(trace.file_ranks))
    collective = [index for index, name in enumerate(trace.names) if is_collective(name)]
    has_gpu = len(trace.gpu) > 0
    rows: list[RankSummary] = []
    for rank in ranks:
        sums = _Times()
        for index, device in enumerate(trace.devices):
            if device.rank == rank:
                _add(sums, trace.gpu, index, collective)
        at = np.flatnonzero(step_rank == rank)
        later = at[times.has_earlier[at]]
        rows.append(
            RankSummary(
                rank=rank,
                median_step_ms=to_ms(np.median(durations.of_rank_ns[at])) if len(at) else None,
                busy_percent=to_percent(sums.busy, sums.window) if sums.window else None,
                gpu_ms=to_ms(sums.gpu),
                communication_ms=to_ms(sums.communication),
                exposed_communication_ms=to_ms(sums.exposed),
                ahead_percent=to_percent(times.is_ahead[later].sum(), len(later)) if has_gpu and len(later) else None,
            )
        )
    return rows if len(rows) > 1 or any(row.communication_ms for row in rows) else []


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
