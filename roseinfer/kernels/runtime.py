"""Where Triton comes from, and where its kernels may run.

Torch builds without CUDA never import Triton, and need none installed; TRITON_INTERPRET=1, set before this module is
imported, makes them do so, for tests.
"""

import functools
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Kernels run in Triton's interpreter, on the CPU."""


class _Absent:
    """What `triton` and `tl` are where nothing can run a kernel: enough for a kernel's definition to be read."""

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
"""Results of one launch that several programs may contribute to."""

DTYPES = frozenset({torch.bfloat16, torch.float16, torch.float32})
"""What the kernels compute with; anything else, float64 above all, goes to the references."""


def runs_triton(*tensors: Tensor | None) -> bool:
    """Whether kernels can take these tensors: on a CUDA device, in one of the dtypes, last dimension contiguous."""
    return HAS_TRITON and all(
        x is None or (x.is_cuda and x.dtype in DTYPES and x.stride(-1) == 1 and x.numel() > 0) for x in tensors
    )


def launch_options(x: Tensor) -> dict[str, Any]:
    """Programmatic dependent launch, where the device has it, for a kernel with the constexpr `PDL`.

    Such a kernel may start before its predecessor in the stream is done: it must call gdc_wait() before it touches
    anything but weights and what was there three launches ago, such as a step's positions. It should call
    gdc_launch_dependents() after that, so that at most two kernels overlap; one that is measured to gain by it may
    call that first, so that its successor fetches weights earlier. Behind a kernel that calls both in that order, what
    was there before that one began may be touched, too: attention of decodes runs beside that of prompts so.
    """
    if x.is_cuda and _has_dependent_launch(x.device.index or 0):
        return {"PDL": True, "launch_pdl": True}
    return {"PDL": False}


@functools.lru_cache
def num_multiprocessors(device: torch.device) -> int:
    """The device's; for the interpreter a Hopper's, so that tests take the same paths."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@functools.lru_cache
def arrivals(device: torch.device) -> Tensor:
    """Counters of a launch whose last program to arrive joins what the others left: [MAX_ARRIVALS], int32.

    They are zero between launches: that last program clears its own. So launches that share a device take turns, and
    the first one, which makes them, comes before any graph is captured.
    """
    return torch.zeros(MAX_ARRIVALS, dtype=torch.int32, device=device)


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is `number` or more."""
    return 1 << max(number - 1, 0).bit_length()


@functools.lru_cache
def _has_dependent_launch(device_index: int) -> bool:
    return gdc_wait is not None and not INTERPRETED and torch.cuda.get_device_capability(device_index) >= (9, 0)
