"""Number of events that show work, and the GPUs whose events a broken-off file lost."""

import numpy as np

from roseinfer.trace.reading.columns import Trace


def count_work_events(trace: Trace) -> int:
    """Return the number of events that say what ran.

    Metadata and the profiler's own step do not count: even a recording of nothing holds them.
    """
    own = [index for index, name in enumerate(trace.names) if name.startswith("ProfilerStep#")]
    spans = int(np.count_nonzero(~np.isin(trace.spans.name, own)))
    return len(trace.ops) + len(trace.calls) + len(trace.gpu) + spans


def lost_gpu(trace: Trace) -> str | None:
    """Return the GPUs named in the head of a broken-off file; None for a whole file or if no GPU is named."""
    names = sorted({device.name or "the GPU" for device in trace.metadata.deviceProperties})
    return ", ".join(names) if trace.truncated and names else None
