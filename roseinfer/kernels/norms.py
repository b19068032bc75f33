"""Residual addition and the norm after it, fused: one pass over each row."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.cpu import native_kernels
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)

_MAX_SIZE = 1 << 15
"""Maximum row size of the Triton kernel: one program holds a whole row."""


class Norm(NamedTuple):
    """A norm to fuse into another kernel: an RMS norm of each row or, if `centered`, a layer norm."""

    weight: Tensor
    eps: float
    bias: Tensor | None = None
    centered: bool = False


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return (RMS norm of x + residual, x + residual).

    x and residual: [rows, size]; weight: [size]. If residual is None, the sum is x. The sum is rounded to x's dtype
    before the norm, as in two separate operations. The norm is computed in float32.
    """
    if native_kernels.runs_native(x, residual, weight) and x.dim() == 2 and x.shape[1] % native_kernels.LANES == 0:
        return native_kernels.add_rms_norm(x, residual, weight, eps)
    chosen = add_rms_norm_triton if _fits(x, residual, weight) else add_rms_norm_reference
    return chosen(x, residual, weight, eps)


def add_rms_norm_reference(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute `add_rms_norm` with torch operations."""
    total = x if residual is None else x + residual
    return F.rms_norm(total, (x.shape[-1],), weight, eps), total


def add_rms_norm_mirrored(x: Tensor, residual: Tensor | None, mirrored: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute `add_rms_norm` with torch's layer norm, for a CPU. `mirrored` is the weight repeated twice, [2 * size].

    A row concatenated with its negative has mean 0, and its variance is the row's mean square. On a CPU, torch's layer
    norm is one kernel and its RMS norm ten operations: for few rows, this takes half the time.
    """
    total = x if residual is None else x + residual
    doubled = torch.cat((total, total.neg()), dim=-1)
    return F.layer_norm(doubled, mirrored.shape, mirrored, None, eps)[:, : x.shape[-1]], total


def add_rms_norm_triton(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Compute `add_rms_norm` in one Triton kernel."""
    return _launch(x, residual, weight, None, eps, centered=False)


def add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return (layer norm of x + residual, x + residual). Shapes and rounding are those of `add_rms_norm`."""
    chosen = add_layer_norm_triton if _fits(x, residual, weight, bias) else add_layer_norm_reference
    return chosen(x, residual, weight, bias, eps)


def add_layer_norm_reference(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute `add_layer_norm` with torch operations."""
    total = x if residual is None else x + residual
    return F.layer_norm(total, (x.shape[-1],), weight, bias, eps), total


def add_layer_norm_triton(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Compute `add_layer_norm` in one Triton kernel."""
    return _launch(x, residual, weight, bias, eps, centered=True)


def _fits(x: Tensor, *others: Tensor | None) -> bool:
    return x.dim() == 2 and x.shape[1] <= _MAX_SIZE and runs_triton(x, *others)


def _launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, *, centered: bool
) -> tuple[Tensor, Tensor]:
    rows, size = x.shape
    normed = torch.empty((rows, size), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(normed)
    padded = next_power_of_two(size)
    _norm_kernel[(rows,)](
        x,
        x if residual is None else residual,
        weight,
        weight if bias is None else bias,
        normed,
        total,
        eps,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        SIZE=size,
        PADDED=padded,
        HAS_RESIDUAL=residual is not None,
        HAS_BIAS=bias is not None,
        CENTERED=centered,
        EARLY=rows == 1,
        num_warps=min(max(padded // 512, 1), 16),
        **launch_options(x),
    )
    return normed, total


@triton.jit
def _norm_kernel(
    x,
    residual,
    weight,
    bias,
    normed,
    total,
    eps,
    x_stride,
    residual_stride,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CENTERED: tl.constexpr,
    EARLY: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < SIZE
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        if EARLY:
            gdc_launch_dependents()  # the next kernel prefetches its weights while this one waits
        gdc_wait()
        if not EARLY:
            gdc_launch_dependents()
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        value += tl.load(residual + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + row * SIZE + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if CENTERED:
        value = tl.where(inside, value - tl.sum(value, 0) / SIZE, 0.0)
    value = value * tl.rsqrt(tl.sum(value * value, 0) / SIZE + eps) * scale
    if HAS_BIAS:
        value += shift
    tl.store(normed + row * SIZE + column, value.to(normed.dtype.element_ty), mask=inside)
