"""Import Triton if it can run here, and decide which tensors its kernels take.

Torch builds without CUDA do not import Triton and need no installation of it. Tests on a CPU set TRITON_INTERPRET=1
before they import this module: kernels then run in Triton's interpreter.
"""

import functools
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""True if kernels run in Triton's interpreter, on the CPU."""


class _Absent:
    """Stand-in for `triton` and `tl` if no kernel can run, so that modules with kernels can still be imported."""

    constexpr = Any

    @staticmethod
    def jit(function: Any = None, **_options: Any) -> Any:
        return function if function is not None else lambda decorated: decorated


HAS_TRITON = (torch.version.cuda is not None or INTERPRETED) and find_spec("triton") is not None
triton: Any = import_module("triton") if HAS_TRITON else _Absent
tl: Any = import_module("triton.language") if HAS_TRITON else _Absent
_cuda: Any = import_module("triton.language.extra.cuda") if HAS_TRITON else None
gdc_wait: Any = getattr(_cuda, "gdc_wait", None)
gdc_launch_dependents: Any = getattr(_cuda, "gdc_launch_dependents", None)

MAX_ARRIVALS = 1 << 16
"""Maximum counters per launch (see `arrivals`): one for each result that several programs contribute to."""

DTYPES = frozenset({torch.bfloat16, torch.float16, torch.float32})
"""Element types of the Triton kernels. Others, such as float64, use the reference implementations."""


def runs_triton(*tensors: Tensor | None) -> bool:
    """True if Triton kernels take these tensors: on a CUDA device, of one of `DTYPES`, last dimension contiguous."""
    return HAS_TRITON and all(
        x is None or (x.is_cuda and x.dtype in DTYPES and x.stride(-1) == 1 and x.numel() > 0) for x in tensors
    )


def launch_options(x: Tensor) -> dict[str, Any]:
    """Return the launch options of a kernel with the constexpr `PDL`: programmatic dependent launch if supported.

    Such a kernel may start before its predecessor in the stream has finished. Before gdc_wait(), it may access only
    weights and data written at least three launches earlier, such as a step's positions. After gdc_wait(), it should
    call gdc_launch_dependents(), so that at most two kernels overlap. A kernel that measurably gains from it may call
    gdc_launch_dependents() first, so that its successor prefetches weights earlier. If the predecessor calls gdc_wait()
    first, a kernel may also access before its own gdc_wait() all data written before that predecessor started. This is
    how decode attention overlaps with prefill attention.
    """
    if x.is_cuda and _has_dependent_launch(x.device.index or 0):
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}


@functools.lru_cache
def num_multiprocessors(device: torch.device) -> int:
    """Return the device's number of multiprocessors; in the interpreter 132, as on Hopper."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@functools.lru_cache
def shared_memory(device: torch.device) -> int:
    """Return the bytes of shared memory that one program may have; in the interpreter 227 KiB, as on Hopper."""
    if device.type != "cuda":
        return 227 << 10
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 99 << 10))  # older torch does not tell


@functools.lru_cache
def arrivals(device: torch.device) -> Tensor:
    """Return the device's counters of finished programs, for `arrival.is_last`: [MAX_ARRIVALS], int32.

    The counters are zero between launches: the last program of a launch resets the ones that it used. Launches on one
    device must therefore not overlap. The first call allocates the counters; it must precede any graph capture.
    """
    return torch.zeros(MAX_ARRIVALS, dtype=torch.int32, device=device)


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << max(number - 1, 0).bit_length()


@functools.lru_cache
def _has_dependent_launch(device_index: int) -> bool:
    return gdc_wait is not None and not INTERPRETED and torch.cuda.get_device_capability(device_index) >= (9, 0)
