"""Find the times in which a device was probably busy although the trace shows nothing: records are missing."""

import numpy as np

from roseinfer.trace.facts.intervals import union
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints


def unexplained_time(facts: Facts, device: int, end_ns: int) -> tuple[Ints, Ints]:
    """Return starts and ends of times whose idle part the trace cannot explain, sorted and disjoint.

    They are waits of the host in which no device shows work, and the times in which kernels ran that are not in the
    trace: after the work launched before them, and before the work launched after them, or `end_ns`.
    """
    lost, blind = _lost_kernels(facts, facts.trace.device_files[device]), facts.blind_waits
    launched, first, last = _work_by_launch(facts, device)
    before, after = np.searchsorted(launched, lost, side="left"), np.searchsorted(launched, lost, side="right")
    since = np.maximum(lost, np.append(np.iinfo(np.int64).min, last)[before])
    start = np.concatenate((blind.start_ns, since))
    end = np.concatenate((blind.end_ns, np.append(first, end_ns)[after]))
    some = end > start
    order = np.argsort(start[some], kind="stable")
    return union(start[some][order], end[some][order])


def _work_by_launch(facts: Facts, device: int) -> tuple[Ints, Ints, Ints]:
    """Return (start of each launch in ascending order, start of its first, end of its last event on a device)."""
    gpu, attribution = facts.trace.gpu, facts.attribution
    low, high = np.searchsorted(gpu.device, (device, device + 1))
    at = low + np.flatnonzero(attribution.linked[low:high])
    if len(at) == 0:
        none = np.zeros(0, np.int64)
        return none, none, none
    at = at[np.argsort(attribution.launch_start_ns[at], kind="stable")]
    launched, first = np.unique(attribution.launch_start_ns[at], return_index=True)
    return launched, np.minimum.reduceat(gpu.start_ns[at], first), np.maximum.reduceat(gpu.end_ns[at], first)


def _lost_kernels(facts: Facts, file: int) -> Ints:
    """Return the start of each launch of a kernel or graph, in one file, that has no GPU event and was not captured.

    Copies and memsets of no bytes have no event either, so they show nothing.
    """
    trace, launches = facts.trace, facts.launches
    call = launches.call[~launches.is_answered & ~launches.is_captured]
    call = call[np.array(trace.thread_files, np.int32)[trace.calls.thread[call]] == file]
    call = call[rows_named(trace.names, trace.calls.name[call], _runs_kernels)]
    return np.asarray(trace.calls.start_ns[call], np.int64)


def _runs_kernels(name: str) -> bool:
    return not any(word in name.lower() for word in ("memcpy", "memset", "fill", "copy"))
