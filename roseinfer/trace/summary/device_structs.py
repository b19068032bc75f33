"""Structs of a summary about devices: GPUs, the host's CPU, and ranks."""

from typing import Literal

import msgspec

Platform = Literal["cuda", "rocm", "xpu", "mtia", "other"]
"""Kind of a device: NVIDIA, AMD, Intel GPU, Meta's MTIA, or another that PyTorch calls PrivateUse1."""


class IdleByCause(msgspec.Struct, frozen=True):
    """Idle time of a GPU, by the cause that delayed the GPU event at the end of each gap."""

    host_late_ms: float
    """Idle time before the event's launch call began: the host was late."""
    launch_call_ms: float
    """Idle time during the event's launch call."""
    device_queue_ms: float
    """Idle time after the event's launch call, in the device's queue."""
    unlinked_ms: float
    """Idle time before events whose launch call is not in the trace."""


class GpuSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Totals over all GPUs; percentages are of these totals."""

    busy_percent: float
    """Busy share of the window."""
    window_ms: float
    """Time from the first GPU event's start to the last one's end."""
    busy_ms: float
    """Time during which at least one stream ran a GPU event."""
    idle_ms: float
    idle_by_cause: IdleByCause
    gpu_events: int
    """Kernels, memcpys and memsets."""
    kernels: int
    linked_percent: float
    """Share of GPU events whose launch is in the trace."""
    small_percent: float
    """Share of GPU events that are shorter than 5 us."""
    small_kernels_percent: float
    """Share of kernels that are shorter than 5 us."""
    median_event_us: float
    """Median duration of a GPU event."""
    launches: int
    """Launch calls that started GPU events; a graph replay counts once."""
    replayed_percent: float
    """Share of GPU events that graph launches started."""
    median_launch_to_start_us: float
    """Median time from the end of a launch call to the start of its GPU event: long if the host runs far ahead."""


class DeviceSummary(GpuSummary, frozen=True, kw_only=True):
    """Figures of a single GPU."""

    id: int
    """Device number, as the process saw it."""
    name: str
    rank: int
    """Rank of the process that used the device."""
    timeline: list[float]
    """Busy share, 0 to 1, of each of some equal parts of the window."""


class CpuSummary(msgspec.Struct, frozen=True):
    """Figures of the host."""

    window_ms: float
    """Time from the first host event's start to the last one's end, added up over files."""
    top_level_busy_percent: float
    """Share of the window during which any thread was inside an operator."""


class RankSummary(msgspec.Struct, frozen=True):
    """Figures of one rank of a run on several GPUs."""

    rank: int
    median_step_ms: float | None
    """Median time of the rank's steps: their spans or, where the host runs ahead, their times on the device."""
    busy_percent: float | None
    """Busy share of the window of the rank's GPU; None if the rank ran nothing on a GPU."""
    gpu_ms: float
    """Sum of the durations of all GPU events."""
    communication_ms: float
    """Time during which at least one collective kernel ran."""
    exposed_communication_ms: float
    """The part of `communication_ms` during which the GPU ran nothing else."""
    compute_ms: float | None = None
    """Time in which the device computed; None without a budget."""
    wait_ms: float | None = None
    """Time in matched collectives before the last rank began; None without matched collectives."""
    exposed_wait_ms: float | None = None
    """The part of `wait_ms` in which the device computed nothing."""
    transfer_ms: float | None = None
    """Time in matched collectives after the last rank began."""
    caused_percent: float | None = None
    """Share of the exposed waits of all ranks that are waits for this rank."""
    last_percent: float | None = None
    """Share of the matched collectives in which this rank began last."""
    clock_offset_us: float | None = None
    """Median difference of the ends of matched collectives from those on the first rank: the offset of its clock."""
    ahead_percent: float | None = None
    """Share of the steps that the host began before the GPU had finished the step before; None without a GPU."""
