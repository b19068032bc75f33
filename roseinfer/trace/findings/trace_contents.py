"""Count the events that show work, and name the GPUs whose events are missing from a truncated file."""

import numpy as np

from roseinfer.trace.reading.columns import Trace


def count_work_events(trace: Trace) -> int:
    """Return the number of operators, runtime calls, GPU events and spans.

    The profiler's own step spans are left out: even a recording of an idle program has them.
    """
    own = [index for index, name in enumerate(trace.names) if name.startswith("ProfilerStep#")]
    spans = int(np.count_nonzero(~np.isin(trace.spans.name, own)))
    return len(trace.ops) + len(trace.calls) + len(trace.gpu) + spans


def lost_gpu(trace: Trace) -> str | None:
    """Return the GPUs that the metadata of a truncated file names; None for a whole file, or if no GPU is named."""
    names = sorted({device.name or "the GPU" for device in trace.metadata.deviceProperties})
    return ", ".join(names) if trace.truncated and names else None
