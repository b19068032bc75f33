"""What a summary says of spans, operators, idle time, repeated launches and waits."""

from typing import Literal

import msgspec

NO_SPAN = "(no span)"
"""The row of what was launched outside all spans, or has no launch in the trace."""


class SpanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All spans of one name. `self_` leaves out inner spans; without it they count too."""

    name: str
    calls: int
    wall_ms: float
    self_wall_ms: float
    gpu_ms: float
    """Durations of the GPU events launched inside, added up."""
    self_gpu_ms: float
    gpu_events: int
    self_gpu_events: int
    gpu_events_per_call: float
    self_gpu_events_per_call: float
    kernels: int
    """The kernels among `gpu_events`."""
    small_percent: float
    idle_caused_ms: float
    """Host-late and launch-call time while this was the innermost span of the launching thread."""
    self_op_ms: float
    """Time inside operators while this was the innermost span; the rest of the self time is plain Python."""
    self_custom_op_ms: float
    """The part of it in operators that are not torch's own, which torch.compile cannot look into."""
    parent: str | None
    """The span that it is in most often, None at the top."""


class GapGroup(msgspec.Struct, frozen=True):
    """Idle time of the GPU with one cause, one thing the launching thread was doing, and one span."""

    cause: Literal["host_late", "launch_call", "device_queue", "unlinked"]
    doing: Literal["sync", "op", "call", "python", "queue", "unknown"]
    """What the launching thread was in: a synchronizing call, an operator, another runtime call, or none of them."""
    name: str
    span: str
    ms: float
    percent: float
    """Share of all idle time."""
    gaps: int
    longest_us: float
    longest_step: int | None
    """The step that the longest piece lies in."""


class Repetition(msgspec.Struct, frozen=True):
    """One sequence of launches that a step repeats."""

    span: str
    phase: str
    launches_per_step: int
    """Launches of the span in the step looked at."""
    pattern: list[str]
    """The first names of the repeated sequence."""
    pattern_launches: int
    repeats: int
    removable_per_step: int
    """Launches that the remedy would save: all repeats but the first, or all operators of each repeat but one."""
    remedy: Literal["batch", "graph", "compile", "fuse"]
    """`batch` for copies and elementwise work in one go. Else the repeats depend on each other, by matrix products or
    by other work of the step between them: `graph` on a GPU, `compile` on a CPU, and `fuse` where the operators are
    custom ones, which a compiler cannot look into."""


class Sync(msgspec.Struct, frozen=True):
    """A kind of call that made the host wait for the device, at one place."""

    call: str
    op: str
    """The operator that it was called by, or `Python`."""
    span: str
    count: int
    per_step: float | None
    ms: float
    """Time inside the calls."""
    note: str


class WhatIf(msgspec.Struct, frozen=True):
    """A bound: what a change could save at the very most."""

    change: str
    saves_ms: float
    saves_percent: float
    """Of the GPU's window, or of the host's where there is no GPU."""
    speedup: float


class OpSummary(msgspec.Struct, frozen=True):
    """All calls of one operator on the CPU, or all runs of one kernel, memcpy or memset on the GPU."""

    name: str
    device: Literal["cpu", "gpu"]
    calls: int
    total_ms: float
    self_ms: float
    percent: float
    """Share of all self time on the same kind of device."""
