"""Structs of a summary about the work of the devices: by operator and shape, kernel, category, module and stack."""

from typing import Literal, get_args

import msgspec

KernelCategory = Literal[
    "matmul",
    "convolution",
    "attention",
    "moe",
    "norm",
    "elementwise",
    "reduction",
    "embedding",
    "sampling",
    "optimizer",
    "communication",
    "copy",
    "other",
]
"""What a kernel computes, by its name."""
CATEGORIES: tuple[KernelCategory, ...] = get_args(KernelCategory)

NO_OPERATOR = "(no operator)"
"""Name of the row for GPU events without an operator around their launch, or without a launch in the trace."""


class KernelShare(msgspec.Struct, frozen=True):
    """GPU events of one name below an operator."""

    name: str
    count: int
    ms: float


class OperatorWork(msgspec.Struct, frozen=True, kw_only=True):
    """All calls of one operator with inputs of the same shapes and types."""

    name: str
    """Name of the operator, or NO_OPERATOR."""
    shapes: str | None
    """Shapes of the inputs, such as `[16, 4096], [4096, 4096]`; None if they are not recorded."""
    dtypes: str | None
    """Types of the inputs, such as `bfloat16, bfloat16`; None if they are not recorded."""
    calls: int
    gpu_ms: float
    """Durations of the GPU events launched in the calls, also by operators that they call; recursion counts once."""
    self_gpu_ms: float
    """The part of `gpu_ms` that no inner operator launched. Over all rows, it adds up to the time of all GPU events."""
    percent: float
    """Share of `self_gpu_ms` in the time of all GPU events; of `self_host_ms` in a trace without GPU events."""
    host_ms: float
    """Time of the calls on the host; recursion counts once."""
    self_host_ms: float
    """Time of the calls on the host without the operators that they call."""
    category: KernelCategory | None
    """Category with most of `self_gpu_ms`; None without GPU events."""
    tensor_cores: bool | None
    """True if most of `self_gpu_ms` uses tensor cores, False if not; None if the names of the kernels do not tell."""
    kernels: list[KernelShare]
    """Up to 5 GPU events by name of `self_gpu_ms`, the longest first."""


class KernelWork(msgspec.Struct, frozen=True, kw_only=True):
    """All GPU events of one name."""

    name: str
    category: KernelCategory
    tensor_cores: bool | None
    """True if the kernel uses tensor cores, False if not; None if its name does not tell."""
    count: int
    ms: float
    percent: float
    """Share of the time of all GPU events."""
    mean_us: float
    operators: list[str]
    """Up to 3 operators that launch it, the longest first."""


class CategoryWork(msgspec.Struct, frozen=True, kw_only=True):
    """All GPU events of one category."""

    category: KernelCategory
    count: int
    ms: float
    percent: float
    """Share of the time of all GPU events."""
    tensor_cores_ms: float
    """The part of `ms` in kernels that use tensor cores."""
    no_tensor_cores_ms: float
    """The part of `ms` in kernels that do not use them; the rest does not tell."""


class StackWork(msgspec.Struct, frozen=True, kw_only=True):
    """GPU events and host time under one chain of modules, or one stack of Python functions."""

    frames: list[str]
    """Modules or functions from the outermost to the innermost; empty for time outside all of them."""
    calls: int
    """Calls of the innermost one."""
    gpu_ms: float
    """Durations of the GPU events launched below, also by inner modules or functions."""
    self_gpu_ms: float
    """The part of `gpu_ms` with exactly these frames."""
    percent: float
    """Share of `self_gpu_ms` in the time of all GPU events; of `self_host_ms` in a trace without GPU events."""
    host_ms: float
    self_host_ms: float
    """The part of `host_ms` outside inner modules or functions."""
