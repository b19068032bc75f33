"""Reasons to doubt the figures of a trace."""

from roseinfer.trace.columns import Trace
from roseinfer.trace.summary import Trust


def reading_trust(trace: Trace) -> list[Trust]:
    """What went wrong while the file was read."""
    notes: list[Trust] = []
    if trace.truncated:
        notes.append(Trust("warning", f"The file is incomplete: {trace.truncated}; what could be read is summarized."))
    counts = trace.counts
    if counts.damaged:
        notes.append(Trust("warning", f"{counts.damaged:,} damaged events could not be read and are left out."))
    if counts.dropped:
        notes.append(Trust("warning", f"{counts.dropped:,} events with impossible times are left out."))
    if counts.unknown:
        notes.append(
            Trust("info", f"{counts.unknown:,} events of categories that torch.profiler does not write are ignored.")
        )
    if counts.events == 0:
        notes.append(Trust("warning", "The trace holds no events: the recording ended before its first active step."))
    return notes
