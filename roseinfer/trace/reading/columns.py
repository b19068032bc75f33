"""A trace as columns: one table per kind of event, with names and threads replaced by their indices.

Times are int64 nanoseconds since the trace's first event. Host tables are sorted by (thread, start, longest first),
the GPU table by (device, start, end).
"""

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.reading.event_schema import Metadata
from roseinfer.trace.summary.device_structs import Platform

Ints = NDArray[np.int64]
"""Array of int64: times in ns, sums, or indices."""
Ints32 = NDArray[np.int32]
"""Array of int32: indices into a list that is known to be short."""

KERNEL, MEMCPY, MEMSET = 0, 1, 2
NO_CORRELATION = -1
MAX_RANKS = 1_000_000
"""Number from which on a rank in a file is damaged: larger than any job."""
CPU_MEMORY = -1
"""Device of memory of the host in `MemoryTable`."""
SHORTEST_FRAME_US = 50
"""Duration from which a Python function is kept: shorter ones explain no idle time that matters, but are many."""


def _no_indices() -> Ints32:
    return np.zeros(0, np.int32)


class HostTable(msgspec.Struct, frozen=True, eq=False):
    """Host events of one kind: operators, spans, or runtime calls. Every array has one entry per event."""

    start_ns: Ints
    end_ns: Ints
    name: Ints32
    """Index into `Trace.names`."""
    thread: Ints32
    """Index into `Trace.threads`."""
    correlation: Ints
    """CUPTI's correlation id of each runtime call, or NO_CORRELATION. Empty for other tables but
    `numbered_ops` and `message_ops`."""
    inputs: Ints32 = msgspec.field(default_factory=_no_indices)
    """Index into `Trace.inputs` of each operator, -1 if it has none. Empty for other tables, and without shapes."""

    def __len__(self) -> int:
        return len(self.start_ns)


class GpuTable(msgspec.Struct, frozen=True, eq=False):
    """GPU events: kernels, memcpys and memsets. Every array has one entry per event."""

    start_ns: Ints
    end_ns: Ints
    name: Ints32
    device: Ints32
    """Index into `Trace.devices`."""
    stream: Ints32
    """Index of the stream id; streams of two devices with the same id share one index."""
    kind: NDArray[np.int8]
    """KERNEL, MEMCPY or MEMSET."""
    correlation: Ints
    """CUPTI's correlation id, equal to that of the launch call; NO_CORRELATION if the trace has none."""
    message: Ints32
    """Index into `Trace.messages` of what a collective sends, -1 if the event does not tell."""

    def __len__(self) -> int:
        return len(self.start_ns)


class MemoryTable(msgspec.Struct, frozen=True, eq=False):
    """Events of torch's allocators, sorted by (device, time). Every array has one entry per event."""

    time_ns: Ints
    thread: Ints32
    """Index into `Trace.threads`."""
    device: Ints32
    """Index into `Trace.memory_devices`."""
    num_bytes: Ints
    """Allocated bytes, negative if they are freed."""
    address: Ints
    allocated: Ints
    """Bytes in tensors on the device after the event; 0 if the recording does not tell."""
    reserved: Ints
    """Bytes that the caching allocator holds on the device after the event."""

    def __len__(self) -> int:
        return len(self.time_ns)


class OperatorInputs(msgspec.Struct, frozen=True):
    """Inputs of an operator, as JSON texts: shapes, types, and the values of those that are no tensors."""

    dims: str
    types: str
    values: str
    """Empty but for convolutions, whose work depends on stride and padding."""


class MemoryDevice(msgspec.Struct, frozen=True):
    """A device whose allocator is recorded in one trace file."""

    id: int
    """Number of the device, or CPU_MEMORY."""
    file: int
    """Index into `file_ranks`."""


class Counts(msgspec.Struct, frozen=True):
    """Counts of all events in the file, and of those left out of the tables, by reason."""

    events: int
    """Number of events in the file, whether used or not."""
    damaged: int
    """Events that do not decode."""
    dropped: int
    """Events left out because their times are impossible."""
    zero_times: int
    """Dropped events that begin at the time 0: the clock failed."""
    unknown: int
    """Events of categories or phases that torch.profiler does not write."""
    python_functions: int
    """Python stack frames, recorded by the profiler's option `with_stack`."""
    profiler_overhead_ns: int
    """Time that the profiler says it spent on itself."""


class Message(msgspec.Struct, frozen=True):
    """Operation, group and size of a collective, from its kernel or from the operator `record_param_comms`."""

    operation: str
    """Name of the operation, such as `allreduce`."""
    group: str = ""
    """Name of the process group; empty if it is not recorded."""
    ranks: str = ""
    """Ranks of the group as written in the file, such as `[0, 1]`; empty if they are not recorded."""
    group_size: int = 0
    """Number of ranks in the group, 0 if it is not recorded."""
    num_bytes: int = 0
    """Bytes per rank, the larger of input and output; 0 if they are not recorded."""


class Device(msgspec.Struct, frozen=True):
    """A device that ran GPU events of one trace file."""

    id: int
    rank: int = 0
    name: str = ""
    process: str = ""
    """Label of the process that used the device, such as `TP00`; empty if the file names none."""


class Trace(msgspec.Struct, frozen=True, eq=False):
    """The events of one trace file, or of several files merged."""

    path: str
    size_bytes: int
    names: list[str]
    threads: list[tuple[Any, Any]]
    """(pid, tid) of each thread, as written in the file."""
    thread_files: list[int]
    """Index into `file_ranks` of the file in which each thread was recorded."""
    file_ranks: list[int]
    """Rank of the process that recorded each file. The processes of a file of several ranks count as a file each."""
    file_origins_ns: list[int]
    """Per file: the time 0 of this trace on the clock of the file, in ns."""
    ranks_known: list[bool]
    """Per file: False if neither its metadata nor its processes tell the rank, which then is 0."""
    devices: list[Device]
    device_files: list[int]
    """Index into `file_ranks` of the file in which each device was recorded."""
    platform: Platform
    """Kind of the devices; "cuda" if the trace does not tell."""
    ops: HostTable
    spans: HostTable
    calls: HostTable
    """Calls of the CUDA runtime and driver, including all launches."""
    message_ops: HostTable
    """Operators that tell what the collective inside them sends; `correlation` is an index into `messages`."""
    messages: list[Message]
    numbered_ops: HostTable
    """Operators with a sequence number, once more, if there is a backward pass; else empty.

    `correlation` is the number plus 1, and negative for operators of a backward pass.
    """
    frames: HostTable
    """Calls of modules, and Python functions that ran for at least `SHORTEST_FRAME_US`; only with stacks."""
    inputs: list[OperatorInputs]
    memory: MemoryTable
    memory_devices: list[MemoryDevice]
    gpu: GpuTable
    dropped_gpu: Ints
    """Correlation ids of the GPU events that were left out because their times are impossible."""
    metadata: Metadata
    counts: Counts
    truncated: str | None
    """Reason why the file counts as incomplete, or None."""
    notes: list[str] = []
    """Remarks of the reader of several files: files left out, and ranks that it had to guess."""
    started_unix_ns: int | None = None
    """Time of the first event since 1970; None if the clock of the trace does not count from a known time."""
