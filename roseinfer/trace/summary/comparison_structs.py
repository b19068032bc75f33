"""What a summary says of another trace that it is compared with."""

from typing import Literal

import msgspec


class SpanCost(msgspec.Struct, frozen=True):
    """What one span takes in a step, inner spans counted."""

    wall_ms: float
    gpu_events: float


class PhaseCosts(msgspec.Struct, frozen=True):
    """What a step of one phase spends on average, by name."""

    spans: dict[str, SpanCost]
    operators: dict[str, float]
    """Self time on the CPU in ms."""
    kernels: dict[str, float]
    """Time of the GPU events that the step launched, in ms."""


class FigureChange(msgspec.Struct, frozen=True):
    """One figure, before and after."""

    phase: str | None
    """The phase whose steps it is of; None where it is of the whole trace."""
    name: str
    unit: str
    baseline: float
    new: float
    change_percent: float | None
    """None where the baseline is 0."""


class PhaseChange(msgspec.Struct, frozen=True):
    """The median step of one phase, before and after."""

    phase: str
    baseline_ms: float
    new_ms: float
    change_percent: float
    noise_percent: float | None
    """Two standard errors of the difference; None with fewer than two steps on either side."""
    baseline_ms_per_token: float | None
    new_ms_per_token: float | None
    verdict: Literal["faster", "slower", "no clear change"]


class TraceComparison(msgspec.Struct, frozen=True):
    """Two traces, figure by figure; spans and kernels per step of each phase that both have."""

    baseline: str
    warnings: list[str]
    """Why the figures may not compare: what differs between the runs, and the baseline's own warnings."""
    phases: list[PhaseChange]
    spans: list[FigureChange]
    kernels: list[FigureChange]
    kernels_on: Literal["cpu", "gpu"]
    """Whether `kernels` are GPU events or, where not both traces have any, the CPU's operators."""
    launches: list[FigureChange]
    headline: str
    fail_above_percent: float | None
    failed: bool
