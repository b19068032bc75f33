"""Find the times in which a device was probably busy although the trace shows nothing: records are missing."""

import numpy as np

from roseinfer.trace.facts.intervals import union
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints


def unexplained_time(facts: Facts, device: int, end_ns: int) -> tuple[Ints, Ints]:
    """Return starts and ends of times whose idle part the trace cannot explain, sorted and disjoint.

    They are waits of the host in which no device shows work, and the times from the launch of a kernel that is not in
    the trace to the device's next event, or to `end_ns`.
    """
    blind, trace = facts.blind_waits, facts.trace
    low, high = np.searchsorted(trace.gpu.device, (device, device + 1))
    launched = _lost_kernels(facts, trace.device_files[device])
    following = np.append(trace.gpu.start_ns[low:high], end_ns)
    until = following[np.searchsorted(trace.gpu.start_ns[low:high], launched, side="right")]
    start, end = np.concatenate((blind.start_ns, launched)), np.concatenate((blind.end_ns, until))
    some = end > start
    order = np.argsort(start[some], kind="stable")
    return union(start[some][order], end[some][order])


def _lost_kernels(facts: Facts, file: int) -> Ints:
    """Return the start of each launch of a kernel or graph, in one file, that has no GPU event and was not captured.

    Copies and memsets of no bytes have no event either, so they show nothing.
    """
    trace, launches = facts.trace, facts.launches
    call = launches.call[~launches.is_answered & ~launches.is_captured]
    call = call[np.array(trace.thread_files, np.int32)[trace.calls.thread[call]] == file]
    named = [index for index in np.unique(trace.calls.name[call]).tolist() if _runs_kernels(trace.names[index])]
    call = call[np.isin(trace.calls.name[call], named)]
    return np.asarray(trace.calls.start_ns[call], np.int64)


def _runs_kernels(name: str) -> bool:
    return not any(word in name.lower() for word in ("memcpy", "memset", "fill", "copy"))
