"""Structs of the time budget: the wall time of steps, split without remainder into what the device did or waited for.

Every part is a length of wall time, and no instant counts twice. Where several things happen at once, the first in the
order of the fields counts: a copy beside a kernel is compute, a collective beside a copy is communication. Times of
several devices are added up.
"""

from typing import Literal

import msgspec

SHORT_STRETCH_NS = 200_000
"""Length of a stretch of idle time, in ns, from which the host did more than launch the next kernel (5 to 100 us)."""

IdleCause = Literal[
    "data_loading",
    "synchronizing_calls",
    "allocation",
    "launch_calls",
    "operators",
    "python",
    "queue",
    "not_recorded",
]
"""Cause of a device's idle time, named as the fields of `HostTime` and `TimeBudget`."""


class HostTime(msgspec.Struct, frozen=True, kw_only=True):
    """Idle time of a device, by what the host was doing while the device had nothing to run."""

    data_loading: float
    """Time in which the host fetched or prepared input data, in ms."""
    synchronizing_calls: float
    """Time in which the host waited in a synchronizing call although the device was idle, in ms."""
    allocation: float
    """Time in calls that allocate or free device memory, such as cudaMalloc and cudaFree, in ms."""
    launch_calls: float
    """Time in other runtime and driver calls, in ms."""
    operators: float
    """Time in operators outside runtime calls, in ms."""
    python: float
    """Time outside operators and runtime calls, in ms."""


class TimeBudget(msgspec.Struct, frozen=True, kw_only=True):
    """Wall time and its parts in ms. The parts, with those of `host_ms`, add up to `wall_ms`."""

    wall_ms: float
    compute_ms: float
    """Time in which kernels other than collectives ran; on a CPU run, operators other than collectives."""
    exposed_communication_ms: float
    """Time in which collectives ran, and no other kernel."""
    exposed_copy_ms: float
    """Time in which only memcpys or memsets ran."""
    host_ms: HostTime
    queue_ms: float
    """Idle time after the launch call of the next GPU event: the device's queue held the event back."""
    not_recorded_ms: float
    """Idle time that the trace cannot explain, because records of launches, GPU events or threads are missing."""


class PhaseBudget(TimeBudget, frozen=True, kw_only=True):
    """Budget of all steps of one phase, added up over the devices."""

    steps: int
    """Number of steps. A step of a job counts once, however many ranks recorded it."""


class DeviceBudget(TimeBudget, frozen=True, kw_only=True):
    """Budget of one device over the whole recording."""

    id: int
    rank: int


class StepBudget(TimeBudget, frozen=True, kw_only=True):
    """Budget of one step on one device."""

    step: int
    """Index of the job's step, in order of time."""
    phase: str
    device: int
    rank: int


class IdlePlace(msgspec.Struct, frozen=True, kw_only=True):
    """Idle time of all devices with one cause and at one place in the program, added up."""

    cause: IdleCause
    name: str
    """Operator, runtime call, data-loading span or Python function that the host was in; empty if nothing names it."""
    operator: str | None
    """For a runtime call: innermost operator around the call."""
    span: str
    """Innermost span of the host thread, or NO_SPAN; for `queue`, the span around the launch."""
    file: str | None
    """Python function with its file and line, where the recording has stacks."""
    ms: float
    short_ms: float
    """The part of `ms` in stretches shorter than 200 us, in which the host went from one launch to the next."""
    percent: float
    """`ms` as a share of the wall time of all devices."""
    gaps: int
    """Number of stretches of idle time that contribute."""
    longest_ms: float
    """Longest of these stretches."""
    longest_before: str | None
    """Name of the GPU event that ended the longest stretch; None at the end of a step or of the recording."""


class ExposedWork(msgspec.Struct, frozen=True, kw_only=True):
    """Collectives or copies of one name that ran at one place in the program while no other kernel ran."""

    kind: Literal["communication", "copy"]
    name: str
    """Name of the kernel, memcpy or memset; of the operator on a CPU."""
    operator: str | None
    """Innermost operator around the launch; None if it is not recorded."""
    span: str
    """Innermost span around the launch, or NO_SPAN."""
    count: int
    total_ms: float
    exposed_ms: float
    """The part of `total_ms` in which no kernel other than collectives ran."""
    percent: float
    """`exposed_ms` as a share of the wall time of all devices."""


class BudgetSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Budgets of the whole recording, of each phase, of each device and of each step."""

    total: TimeBudget
    """Sum over devices. `wall_ms` runs from the first step's start, or the first event, to the end of all work."""
    phases: dict[str, PhaseBudget]
    devices: list[DeviceBudget]
    steps: list[StepBudget]
    idle: list[IdlePlace]
    """Where the idle time of `total` was caused, the longest first, at most 100 places."""
    exposed: list[ExposedWork] = []
    """Collectives and copies with exposed time in `total`, the longest first, at most 100 rows."""
    steps_have_own_work: bool = True
    """False if a step may have GPU work of an earlier one, because the host began it before the GPU had ended that."""
