"""What a trace holds, and what a broken-off file lost."""

import numpy as np

from roseinfer.trace.reading.columns import Trace


def count_work_events(trace: Trace) -> int:
    """Events that say what ran. A recording without any still holds metadata and the profiler's own step."""
    own = [index for index, name in enumerate(trace.names) if name.startswith("ProfilerStep#")]
    spans = int(np.count_nonzero(~np.isin(trace.spans.name, own)))
    return len(trace.ops) + len(trace.calls) + len(trace.gpu) + spans


def lost_gpu(trace: Trace) -> str | None:
    """The GPU that the head of a broken-off file names; None for a whole file, or where no GPU is named."""
    names = sorted({device.name or "the GPU" for device in trace.metadata.deviceProperties})
    return ", ".join(names) if trace.truncated and names else None
