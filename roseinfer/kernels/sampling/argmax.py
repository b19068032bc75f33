"""Index of the largest logit in each row. Several programs share a row, since a vocabulary is too long for one."""

import torch
from torch import Tensor

from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.cpu import native_kernels
from roseinfer.kernels.runtime import (
    MAX_ARRIVALS,
    arrivals,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)
from roseinfer.kernels.sampling.sort_keys import load_ranked

_BLOCK = 4096
"""Logits per program."""
_MAX_PARTS = 1024
"""Maximum programs per row: the last program to finish combines all results at once."""


def argmax(x: Tensor) -> Tensor:
    """Return the index of each row's largest value: [rows, size] -> [rows], int64.

    The lowest index wins among equal values. For a row with NaN, the index depends on the implementation.
    """
    if x.dim() == 2 and native_kernels.runs_native(x):
        return native_kernels.argmax(x)
    return argmax_triton(x) if has_largest_keys(x) else argmax_reference(x)


def has_largest_keys(x: Tensor) -> bool:
    """True if `largest_keys` takes this tensor."""
    return x.dim() == 2 and runs_triton(x) and len(x) <= MAX_ARRIVALS and x.shape[1] <= _BLOCK * _MAX_PARTS


def argmax_reference(x: Tensor) -> Tensor:
    """Compute `argmax` with torch's max, which also returns the first of equal values.

    On a CPU, torch's argmax of a 16-bit row takes six times as long as its max.
    """
    return x.max(dim=-1).indices


def argmax_triton(x: Tensor) -> Tensor:
    """Compute `argmax` in one Triton kernel. Calls must not overlap on several streams: they share counters."""
    return _launch(x, keys=False)


def largest_keys(x: Tensor) -> Tensor:
    """Return the largest key of each row, as `sort_keys.load_ranked` defines keys: [rows, size] -> [rows], int64."""
    return _launch(x, keys=True)


def _launch(x: Tensor, *, keys: bool) -> Tensor:
    rows, size = x.shape
    parts = triton.cdiv(size, _BLOCK)
    out = torch.empty(rows, dtype=torch.int64, device=x.device)
    best = torch.empty((rows, parts), dtype=torch.int64, device=x.device)
    _argmax_kernel[(parts, rows)](
        x,
        out,
        best,
        arrivals(x.device),
        x.stride(0),
        size,
        PARTS=parts,
        PARTS_PADDED=next_power_of_two(parts),
        BLOCK=_BLOCK,
        KEYS=keys,
        num_warps=8,
        **launch_options(x),
    )
    return out


@triton.jit
def _argmax_kernel(
    x,
    out,
    best,
    arrived_parts,
    x_stride,
    size,
    PARTS: tl.constexpr,
    PARTS_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    PDL: tl.constexpr,
):
    part = tl.program_id(0)
    row = tl.program_id(1)
    column = part * BLOCK + tl.arange(0, BLOCK)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    found = tl.max(load_ranked(x + row.to(tl.int64) * x_stride, column, size), 0)
    if PARTS == 1:
        tl.store(out + row, found if KEYS else 0x7FFFFFFF - (found & 0x7FFFFFFF))
    else:
        places = best + row * PARTS
        tl.store(places + part, found)
        if is_last(arrived_parts + row, PARTS):
            other = tl.arange(0, PARTS_PADDED)
            others = tl.load(places + other, mask=other < PARTS, other=-0x7FFFFFFFFFFFFFFF, cache_modifier=".cg")
            best_key = tl.max(others, 0)
            tl.store(out + row, best_key if KEYS else 0x7FFFFFFF - (best_key & 0x7FFFFFFF))
