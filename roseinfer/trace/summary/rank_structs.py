"""Structs of a summary about a job of several ranks: matched collectives, waits, and the rank that others wait for."""

import msgspec


class CollectiveSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All matched collectives of one operation and one group of ranks."""

    name: str
    """Name of the operation, such as `allreduce`; the kernel's name if the operation is not recorded."""
    group: str
    """Name of the process group; empty if it is not recorded."""
    ranks: list[int]
    count: int
    transfer_ms: float
    """Sum of the shortest durations over the ranks: the time that the data takes once the last rank has begun."""
    median_transfer_us: float
    wait_ms_by_rank: dict[int, float]
    """Per rank: the sum of its durations without the transfer, in which it waited for the last rank."""
    straggler: int | None
    """Rank that caused most of the waits; None if no rank caused 60 % of them."""
    bytes: int | None
    """Mean number of bytes per collective and rank; None if they are not recorded."""
    bus_gb_per_s: float | None
    """Bandwidth of the transfer per rank in GB/s, as nccl-tests define it; None without bytes."""
    hidden_percent: float
    """Share of the collectives' time on all ranks that computation overlaps."""
    largest_wait_ms: float
    """Largest difference of the starts of one collective, which is the longest wait of a rank."""


class MissingCollective(msgspec.Struct, frozen=True):
    """Collectives that the recording of one rank lacks."""

    rank: int
    count: int
    of: int
    """Collectives of the same kind that the other ranks have."""
    first: int
    """Number of the first one that is missing, counted from 0."""


class PartDifference(msgspec.Struct, frozen=True):
    """A part of the time budget in which a rank differs from the median of the others."""

    part: str
    """Name of the part, as the fields of `TimeBudget` and `HostTime`; `host_ms` for the sum of the latter."""
    ms: float
    """Time per step of the rank; of the whole recording without steps."""
    others_ms: float
    """Median of the other ranks' time."""


class Straggler(msgspec.Struct, frozen=True, kw_only=True):
    """The rank that the others wait for, and what it was doing meanwhile."""

    rank: int
    caused_percent: float
    """Share of all waits that this rank caused, by beginning last."""
    wait_ms: float
    """Mean exposed wait of another rank for this rank, per step; of the whole recording without steps."""
    step_ms: float
    """Mean wall time of a step of the job; the wall time of the recording without steps."""
    does: list[PartDifference]
    """Parts of the budget that take this rank longer than the others, the largest difference first."""
    kernel: str | None
    """Kernel, or operator on a CPU, with the largest difference of time, if computing is the first part of `does`."""
    kernel_calls: float | None
    """Calls of `kernel` on this rank, relative to the median of the others."""
    tokens: float | None
    """Tokens per step relative to the median of the others; None if steps do not tell."""
    place: str | None
    """Place in the program where the host of this rank spends the time, if that is the first part of `does`."""
    collection: PartDifference | None = None
    """Time per step in which this rank collects garbage, which `does` holds too; None if the others collect as long."""


class JobStep(msgspec.Struct, frozen=True):
    """One step of the job."""

    step: int
    """Index of the job's step, in order of time."""
    phase: str
    wall_ms: float
    """Mean wall time over the ranks."""
    wait_ms: float
    """Mean exposed wait over the ranks."""
    critical_rank: int | None
    """Rank that caused most of the waits of the step; None without waits."""


class CollectiveWait(msgspec.Struct, frozen=True):
    """One collective that ranks waited for."""

    name: str
    group: str
    step: int | None
    """Index of the job's step; None outside steps."""
    place: int
    """Number of the collective among those of its group or name, counted from 0."""
    last_rank: int
    """Rank that began last."""
    skew_ms: float
    """Time between the first and the last start, which is the longest wait."""
    transfer_ms: float
    wait_ms_by_rank: dict[int, float]


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Waits of a job of several ranks. Times are added up over its ranks."""

    num_ranks: int
    matched: int
    """Number of collectives that are matched over their ranks."""
    unmatched: int
    """Number of recorded collectives, of all ranks, that have no partner."""
    wait_ms: float
    """Time in collectives before the last rank began."""
    transfer_ms: float
    """Time in collectives after the last rank began."""
    exposed_wait_ms: float
    """The part of `wait_ms` in which the device computed nothing."""
    exposed_transfer_ms: float
    """The part of `transfer_ms` in which the device computed nothing."""
    unrecorded_wait_ms: float
    """The part of `exposed_wait_ms` before the recording of the last rank began, whose cause is not recorded."""
    straggler: Straggler | None
    """The rank that caused at least 60 % of the exposed waits; None if ranks take turns, or hardly wait."""
    missing: list[MissingCollective]
    steps: list[JobStep]
    longest_waits: list[CollectiveWait]
    """The 20 collectives with the longest waits, the longest first."""
