"""A trace as columns: one table for each kind of event the analysis reads, names and threads as small integers.

Times are int64 nanoseconds since the trace's first event. Host tables are sorted by (thread, start, longest first),
the GPU table by (device, start).
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.event_schema import Metadata

Ints = NDArray[np.int64]
Small = NDArray[np.int32]

KERNEL, MEMCPY, MEMSET = 0, 1, 2
NO_CORRELATION = -1


class HostTable(msgspec.Struct, frozen=True, eq=False):
    """Events of host threads: operators, spans, or runtime calls."""

    start_ns: Ints
    end_ns: Ints
    name: Small
    """Index into `Trace.names`."""
    thread: Small
    """Index into `Trace.threads`."""
    correlation: Ints
    """CUPTI's correlation id for runtime calls, NO_CORRELATION where there is none; empty for operators and spans."""

    def __len__(self) -> int:
        return len(self.start_ns)


class GpuTable(msgspec.Struct, frozen=True, eq=False):
    """GPU events: kernels, memcpys and memsets."""

    start_ns: Ints
    end_ns: Ints
    name: Small
    device: Small
    """Index into `Trace.devices`."""
    stream: Small
    kind: NDArray[np.int8]
    """KERNEL, MEMCPY or MEMSET."""
    correlation: Ints

    def __len__(self) -> int:
        return len(self.start_ns)


class Counts(msgspec.Struct, frozen=True):
    """What the reader saw besides the tables."""

    events: int
    damaged: int
    """Events that could not be decoded."""
    dropped: int
    """Decoded events with impossible times."""
    unknown: int
    """Events of categories or phases that torch.profiler does not write."""
    python_functions: int
    profiler_overhead_ns: int


class Device(msgspec.Struct, frozen=True):
    """A device as one file recorded it."""

    id: int
    rank: int = 0
    name: str = ""


class Trace(msgspec.Struct, frozen=True, eq=False):
    """One trace file, read."""

    path: str
    size_bytes: int
    names: list[str]
    threads: list[tuple[Any, Any]]
    """(pid, tid) as written."""
    thread_files: list[int]
    """The file that each thread comes from, as an index into `file_ranks`."""
    file_ranks: list[int]
    devices: list[Device]
    ops: HostTable
    spans: HostTable
    calls: HostTable
    """cuda_runtime and cuda_driver calls, launches among them."""
    gpu: GpuTable
    metadata: Metadata
    counts: Counts
    truncated: str | None
    """Why the file counts as broken off, or None."""
