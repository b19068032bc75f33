"""Tell what an event is from its category, for every version of Kineto and every kind of device it records."""

import re
from typing import Literal

from roseinfer.trace.reading.columns import KERNEL, MEMCPY, MEMSET

PROFILER_STEP = re.compile(r"ProfilerStep#\d+$")
"""Name of the span that the profiler's `step()` opens; an operator in traces of torch 1.8."""

MODULE_FRAME = "nn.Module: "
"""Beginning of the names of Python frames that stand for calls of modules."""

HostKind = Literal["op", "span", "call", "overhead", "python", "ignored"]

_HOST_KINDS: dict[str, HostKind] = {
    "cpu_op": "op",
    "operator": "op",  # torch 1.8
    "user_annotation": "span",
    "runtime": "call",  # torch 1.8
    "driver": "call",
    "hpu_op": "call",
    "overhead": "overhead",
    "python_function": "python",
    "trace": "ignored",
    "async": "ignored",
    "cpu_instant_event": "ignored",
    "collective_comm": "ignored",
    "cuda_event": "ignored",
    "cuda_profiler_range": "ignored",
    "xpu_scope_profiler": "ignored",
    "mtia_insight": "ignored",
    "mtia_counters": "ignored",
    "mtia_workloadd": "ignored",
}
_HOST_ENDINGS: dict[str, HostKind] = {
    "_runtime": "call",  # of CUDA, HIP, XPU, MTIA, PrivateUse1 and others
    "_driver": "call",
    "_sync": "ignored",
    "_user_annotation": "ignored",  # of a device: repeats the spans of the host
}
_GPU_KINDS = {
    "kernel": KERNEL,
    "concurrent_kernel": KERNEL,
    "mtia_ccp_events": KERNEL,
    "memcpy": MEMCPY,  # torch 1.8
    "memset": MEMSET,
}
_GPU_ENDINGS = {"_kernel": KERNEL, "_memcpy": MEMCPY, "_memset": MEMSET}


def host_kind(category: str) -> HostKind | None:
    """Return what events of this category of the host are; None for work of a device and for unknown categories."""
    key = category.lower()
    if key in _HOST_KINDS:
        return _HOST_KINDS[key]
    return next((kind for ending, kind in _HOST_ENDINGS.items() if key.endswith(ending)), None)


def gpu_kind(category: str) -> int | None:
    """Return KERNEL, MEMCPY or MEMSET for a category of a device's work; None for all others."""
    key = category.lower()
    if key in _GPU_KINDS:
        return _GPU_KINDS[key]
    return next((kind for ending, kind in _GPU_ENDINGS.items() if key.endswith(ending)), None)
