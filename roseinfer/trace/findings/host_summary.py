"""Time that the host spent in operators."""

import numpy as np

from roseinfer.trace.facts.intervals import union_length
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.summary.device_structs import CpuSummary
from roseinfer.trace.summary.units import to_ms, to_percent


def summarize_host(facts: Facts) -> CpuSummary:
    """Return the host's window and the share of it inside operators; windows of several files are added up."""
    trace, ops = facts.trace, facts.ops
    top = ops.depth == 0
    start, end, thread = ops.start_ns[top], ops.end_ns[top], trace.ops.thread[top]
    window_ns = busy_ns = 0
    for file in range(len(trace.file_ranks)):
        threads = [index for index, one in enumerate(trace.thread_files) if one == file]
        ranges = [
            (int(table.start_ns[low]), int(table.end_ns[low:high].max()))
            for table in (trace.ops, trace.spans, trace.calls)
            for low, high in (np.searchsorted(table.thread, (one, one + 1)) for one in threads)
            if high > low
        ]
        if ranges:
            window_ns += max(last for _, last in ranges) - min(first for first, _ in ranges)
            mine = np.isin(thread, threads)
            busy_ns += union_length(start[mine], end[mine])
    return CpuSummary(window_ms=to_ms(window_ns), top_level_busy_percent=to_percent(busy_ns, window_ns))
