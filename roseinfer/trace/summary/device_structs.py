"""What a summary says of GPUs, of the host, and of ranks."""

import msgspec


class IdleByCause(msgspec.Struct, frozen=True):
    """Idle time of a GPU, by what held up the event that ended each gap."""

    host_late_ms: float
    """Before the launch call began."""
    launch_call_ms: float
    """Inside the launch call."""
    device_queue_ms: float
    """After the launch call."""
    unlinked_ms: float
    """The launch is not in the trace."""


class GpuSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All devices together: times added, percentages weighted."""

    busy_percent: float
    window_ms: float
    """First event's start to last event's end."""
    busy_ms: float
    """The union of the events over all streams."""
    idle_ms: float
    idle_by_cause: IdleByCause
    gpu_events: int
    kernels: int
    linked_percent: float
    """Events whose launch is in the trace."""
    small_percent: float
    """GPU events shorter than 5 us."""
    small_kernels_percent: float
    """Kernels shorter than 5 us, of all kernels."""
    median_event_us: float
    launches: int
    """Launch calls in the trace that started GPU events; a graph replay is one."""
    replayed_percent: float
    """GPU events started by graph launches."""
    median_launch_to_start_us: float
    """From the end of the launch call to the event's start: time in the queue, long where the host runs far ahead."""


class DeviceSummary(GpuSummary, frozen=True, kw_only=True):
    """One device."""

    id: int
    name: str
    rank: int
    timeline: list[float]
    """The busy share, 0 to 1, of equal parts of the window."""


class CpuSummary(msgspec.Struct, frozen=True):
    """The host's side of the trace."""

    window_ms: float
    top_level_busy_percent: float
    """Share of the window in which any thread was inside an operator."""


class RankSummary(msgspec.Struct, frozen=True):
    """One rank of several."""

    rank: int
    median_step_ms: float | None
    busy_percent: float | None
    gpu_ms: float
    communication_ms: float
    """Union of the collective kernels."""
    exposed_communication_ms: float
    """The part of it in which the device ran nothing else."""
