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
"""Kind of a kernel's work, by its name."""
CATEGORIES: tuple[KernelCategory, ...] = get_args(KernelCategory)

NO_OPERATOR = "(no operator)"
"""Name of the row for GPU events without an operator around their launch, or without a launch in the trace."""


class KernelShare(msgspec.Struct, frozen=True):
    """GPU events of one name below an operator."""

    name: str
    count: int
    ms: float


class DevicePeaks(msgspec.Struct, frozen=True, kw_only=True):
    """Peaks of a device without sparsity."""

    device: str
    """Name of the device in the table, or `--peak`."""
    tflops: float
    """TFLOP/s of bfloat16 products, or of float16 where the device has no bfloat16."""
    tb_per_s: float
    """Memory bandwidth in TB/s."""
    has_bf16: bool = True
    has_tf32: bool = True
    """True if float32 products can run at half of `tflops`, as TF32."""
    source: Literal["table", "option"]


class OperatorRoofline(msgspec.Struct, frozen=True, kw_only=True):
    """Least work of all calls of an operator, from their shapes, and how close to the device's peaks they come."""

    flops: float
    """FLOPs of the products; 0 for operators that only move data."""
    bytes: float
    """Bytes of all inputs, read once, and of the output, written once."""
    bound: Literal["compute", "memory"] | None
    """The one that takes longer at the device's peaks; None if the peaks are not known."""
    bound_ms: float | None
    """Time of the calls at the device's peaks; None if the peaks are not known."""
    percent: float | None
    """`bound_ms` as a share of `gpu_ms`; above 100 where data was in a cache."""
    saves_ms: float | None
    """GPU time that calls at 80 % of the bound would save."""


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
    roofline: OperatorRoofline | None = None
    """None if shapes are not recorded, or if the FLOPs and bytes of the operator are not known."""


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
