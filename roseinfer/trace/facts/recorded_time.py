"""The wall time that a recording covers."""

from roseinfer.trace.reading.columns import Trace


def recorded_ns(trace: Trace) -> int:
    """Return the time from the first to the last event of the trace, in ns, with the gaps between merged files."""
    tables = [table for table in (trace.ops, trace.spans, trace.calls, trace.gpu) if len(table)]
    if not tables:
        return 0
    return int(max(table.end_ns.max() for table in tables)) - int(min(table.start_ns.min() for table in tables))
