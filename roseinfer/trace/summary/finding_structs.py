"""Structs of a summary about spans, operators, idle time, repeated launches and waits of the host."""

from typing import Literal

import msgspec

NO_SPAN = "(no span)"
"""Name of the row for work launched outside all spans, or without a launch in the trace."""

FindingKind = Literal["host", "data", "communication", "waiting", "copy", "gpu", "cpu", "memory", "arithmetic"]
"""Kind of work that a finding's time is spent on, or the limit that bounds it."""


class SpanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All spans of one name. Figures named `self_` leave out inner spans; the others include them."""

    name: str
    calls: int
    wall_ms: float
    self_wall_ms: float
    gpu_ms: float
    """Sum of the durations of the GPU events launched inside the spans."""
    self_gpu_ms: float
    gpu_events: int
    self_gpu_events: int
    gpu_events_per_call: float
    self_gpu_events_per_call: float
    kernels: int
    """Number of kernels among `gpu_events`."""
    small_percent: float
    """Share of `gpu_events` that are shorter than 5 us."""
    idle_caused_ms: float
    """Idle time of causes `host_late` and `launch_call` while this was the launching thread's innermost span."""
    self_op_ms: float
    """Self time spent inside operators; the rest of `self_wall_ms` is plain Python or waiting."""
    self_custom_op_ms: float
    """The part of `self_op_ms` in operators that are not torch's own, which torch.compile cannot see inside."""
    parent: str | None
    """Name of the span that most often encloses these spans directly; None if they are mostly top-level."""


class GapGroup(msgspec.Struct, frozen=True):
    """GPU idle time with the same cause, the same activity of the launching thread, and the same span."""

    cause: Literal["host_late", "launch_call", "device_queue", "unlinked"]
    doing: Literal["sync", "op", "call", "python", "queue", "unknown"]
    """Activity of the launching thread: `sync` (a synchronizing call), `op`, `call` (another runtime call) or `python`.

    Of autograd's thread and the one that waits for it, the one that is at work counts.

    `queue` and `unknown` are for causes that do not depend on the host: `device_queue` and `unlinked`.
    """
    name: str
    """Name of the operator or call, or a description of the activity."""
    span: str
    """Innermost span of the launching thread; for `device_queue`, the span around the launch."""
    ms: float
    percent: float
    """Share of all idle time."""
    gaps: int
    """Number of gaps that contribute to the group."""
    longest_us: float
    """Longest uninterrupted idle time in the group."""
    longest_step: int | None
    """Index of the step in which the longest idle time began; None if outside all steps."""


class Repetition(msgspec.Struct, frozen=True):
    """A sequence of launches that a step repeats, found in the typical step."""

    span: str
    """Innermost span around the launches."""
    phase: str
    launches_per_step: int
    """Launches inside the span per step."""
    pattern: list[str]
    """Names of the first launches in the sequence."""
    pattern_launches: int
    """Number of launches in the sequence."""
    repeats: int
    """Number of times that the step runs the sequence."""
    removable_per_step: int
    """Launches that the remedy would save per step. `batch` and `graph` leave one repeat of each uninterrupted series;
    `compile` and `fuse` leave one operator per repeat."""
    remedy: Literal["batch", "graph", "compile", "fuse"]
    """`batch` if the repeats are copies or elementwise work with nothing between them.

    Otherwise the repeats depend on each other: they hold matrix products, or other work of the step separates them.
    Then `graph` on a GPU, `compile` on a CPU, and `fuse` for custom operators, which a compiler cannot see inside.
    """


class Sync(msgspec.Struct, frozen=True):
    """Calls of one kind, at one place in the program, that made the host wait for the device."""

    call: str
    """Name of the runtime call and, for copies, their direction."""
    op: str
    """Innermost operator around the calls, or `Python`."""
    span: str
    """Innermost span around the calls."""
    count: int
    per_step: float | None
    """Calls per step; None without steps."""
    ms: float
    """Total time inside the calls."""
    note: str
    """Why the host waits, or how to avoid the wait."""


class WhatIf(msgspec.Struct, frozen=True):
    """Upper bound of the time that a change could save."""

    change: str
    saves_ms: float
    saves_percent: float
    """Saved share of the budget's wall time."""
    speedup: float
    """Factor by which the wall time would shrink; 0 if nothing of it would remain."""
    id: str = ""
    """Stable name of the bound, such as `no_idle_time`; `one_kernel_per_call|SPAN` has the span."""


class OpSummary(msgspec.Struct, frozen=True):
    """All calls of one CPU operator, or all runs of one kernel, memcpy or memset."""

    name: str
    device: Literal["cpu", "gpu"]
    calls: int
    total_ms: float
    self_ms: float
    """Time without inner operators; equal to `total_ms` on a GPU."""
    percent: float
    """Share of the self time of all rows with the same `device`."""
    backward_gpu_ms: float = 0.0
    """GPU time of the backward pass of a CPU operator, matched by sequence number; 0 on a GPU."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a finding was made; each part is None if it does not apply."""

    span: str | None = None
    operator: str | None = None
    """Operator, or a runtime call that no operator is around."""
    kernel: str | None = None
    file: str | None = None
    """Python function with its file and line, where the recording has stacks."""
    rank: int | None = None
    """Rank that the others wait for."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A share of the wall time that somebody can reduce, with the place and the remedy."""

    id: str
    """Stable name of the rule that made the finding, such as `data_loading` or `exposed_collective`."""
    kind: FindingKind
    share_percent: float
    """Share of the budget's wall time."""
    saves_ms: float
    """Upper bound of the wall time that the remedy saves."""
    where: Place
    sentence: str
    """Evidence: names the kernel, operator, span or file, with its figures."""
    advice: str
    key: str = ""
    """Rule and place, such as `host_work|roseinfer.schedule|aten::copy_`: the same in every recording of one program.

    Further findings of one rule at one place have `#2`, `#3` and so on at the end.
    """
