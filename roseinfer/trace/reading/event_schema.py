"""Structs into which msgspec decodes a Chrome trace: its events and its metadata."""

import math
from typing import Any

import msgspec

Id = int | str | float | None
"""A pid, tid, device, stream or correlation id; some writers use numbers, others strings."""


_NOTHING = msgspec.Raw()


class RawArgs(msgspec.Struct, gc=False):
    """The `args` of an event that the analysis uses."""

    correlation: Id = None
    device: Id = None
    stream: Id = None
    sequence: Id = msgspec.field(default=None, name="Sequence number")
    """Number that an operator shares with its backward pass."""
    forward_thread: Id = msgspec.field(default=None, name="Fwd thread id")
    """Profiler's number of the thread that ran the forward operator; 0 for operators outside a backward pass."""
    operation: Any = msgspec.field(default=None, name="Collective name")
    """Operation of a collective, such as `allreduce`, on its kernel or on `record_param_comms`."""
    group: Any = msgspec.field(default=None, name="Process Group Name")
    group_ranks: Any = msgspec.field(default=None, name="Process Group Ranks")
    group_size: Any = msgspec.field(default=None, name="Group size")
    in_elements: Any = msgspec.field(default=None, name="In msg nelems")
    out_elements: Any = msgspec.field(default=None, name="Out msg nelems")
    dtype: Any = None
    input_dims: msgspec.Raw = msgspec.field(default=_NOTHING, name="Input Dims")
    """Shapes of an operator's inputs, as JSON text, if the profiler recorded shapes."""
    input_types: msgspec.Raw = msgspec.field(default=_NOTHING, name="Input type")
    input_values: msgspec.Raw = msgspec.field(default=_NOTHING, name="Concrete Inputs")
    """Values of the inputs that are no tensors, such as the stride of a convolution."""
    num_bytes: Id = msgspec.field(default=None, name="Bytes")
    """Bytes that an event of the allocator adds, negative for memory that is freed."""
    address: Id = msgspec.field(default=None, name="Addr")
    allocated: Id = msgspec.field(default=None, name="Total Allocated")
    reserved: Id = msgspec.field(default=None, name="Total Reserved")
    memory_device: Id = msgspec.field(default=None, name="Device Id")
    memory_device_type: Id = msgspec.field(default=None, name="Device Type")


class RawEvent(msgspec.Struct, gc=False):
    """An entry of `traceEvents`; `ts` and `dur` are in us."""

    ph: str = ""
    cat: str | None = None
    name: str | None = None
    pid: Id = None
    tid: Id = None
    ts: float = math.nan
    dur: float = math.nan
    """NaN if the event has none, infinite if it cannot be read."""
    args: RawArgs | None = None


class DeviceProperties(msgspec.Struct, frozen=True):
    """A device, as described in the metadata of a trace."""

    id: Id = None
    name: str = ""
    totalGlobalMem: Id = None  # noqa: N815
    """Memory in bytes."""


class Metadata(msgspec.Struct, frozen=True):
    """Top-level fields of a trace file, without the events."""

    schemaVersion: Id = None  # noqa: N815
    deviceProperties: list[DeviceProperties] = []  # noqa: N815
    distributedInfo: dict[str, Any] = {}  # noqa: N815
    traceName: str = ""  # noqa: N815
    with_stack: Id = None
    """The profiler's option `with_stack`; None if the option was off."""
    profile_memory: Id = None
    """The profiler's option `profile_memory`; None if the option was off."""
    record_shapes: Id = None
    """The profiler's option `record_shapes`; None if the option was off."""
    baseTimeNanoseconds: Id = None  # noqa: N815
    """Time since 1970 to which every `ts` is added; None in a trace whose `ts` counts from 1970."""
    cuda_runtime_version: Id = None
    """1000 x major + 10 x minor version."""
    roctracer_version: Id = None
    hip_runtime_version: Id = None
    """10,000,000 x major + 100,000 x minor version + patch level."""
