"""Structs of a summary about the memory of torch's allocators, from recordings with `profile_memory`."""

import msgspec


class HeldMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory that was allocated at one place and not freed yet."""

    operator: str | None
    """Innermost operator around the allocation; None outside operators."""
    file: str | None
    """Python function with file and line around the allocation, where the recording has stacks."""
    bytes: int
    tensors: int
    """Number of allocations."""


class MemoryPoint(msgspec.Struct, frozen=True):
    """Memory during a short time of the recording."""

    ms: float
    """End of the time, since the first event of the trace."""
    allocated_bytes: int
    """Most bytes in tensors."""
    reserved_bytes: int
    """Most bytes that the caching allocator held."""


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one device over the recording. Sizes are 0 if the events do not tell the bytes in tensors."""

    device: int | None
    """Number of the device; None for memory of the host."""
    rank: int
    events: int
    """Number of allocations and frees."""
    start_bytes: int
    """Bytes in tensors before the first event."""
    end_bytes: int
    """Bytes in tensors after the last event."""
    peak_bytes: int
    """Most bytes in tensors."""
    peak_ms: float
    """Time of the peak, since the first event of the trace."""
    peak_reserved_bytes: int
    """Most bytes that the caching allocator held."""
    growth_bytes_per_step: float | None
    """Median growth of the bytes in tensors from the end of a step to that of the next; None without 3 steps."""
    is_growing: bool
    """True if the bytes in tensors grow in nearly every step, or over the whole recording if it has no steps."""
    released_blocks: int
    """Calls such as cudaFree: the allocator was short of memory and tried again, or the program emptied its cache."""
    at_peak: list[HeldMemory]
    """Places that had allocated what was held at the peak, the largest first, at most 20."""
    before_bytes: int
    """The part of `peak_bytes` that was allocated before the recording."""
    at_end: list[HeldMemory]
    """Places that had allocated during the recording what was held at its end, the largest first, at most 20."""
    timeline: list[MemoryPoint]
    """At most 240 points, in order of time."""
