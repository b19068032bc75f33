"""Activation functions of MLPs."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels.cpu import native_kernels
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    runs_triton,
    tl,
    triton,
)

Activation = Literal["silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "clamped_swiglu_and_mul", "gelu", "gelu_tanh"]
"""Name of an activation function in this module."""

GATED_ACTIVATIONS: tuple[Activation, ...] = (
    "silu_and_mul",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "clamped_swiglu_and_mul",
)
"""Activations that take gates and values side by side, and return half as many columns."""

SWIGLU_ALPHA, SWIGLU_LIMIT = 1.702, 7.0
"""Constants of `clamped_swiglu_and_mul`."""

_BLOCK = 1024


def silu_and_mul(gate_up: Tensor) -> Tensor:
    """Return SiLU(gate) x up: [rows, 2 * size], gates first -> [rows, size] (SwiGLU, Shazeer, 2020)."""
    if (
        native_kernels.runs_native(gate_up)
        and gate_up.dim() == 2
        and gate_up.shape[1] % (2 * native_kernels.LANES) == 0
    ):
        return native_kernels.silu_and_mul(gate_up)
    return (silu_and_mul_triton if _fits(gate_up) else silu_and_mul_reference)(gate_up)


def silu_and_mul_reference(gate_up: Tensor) -> Tensor:
    """Compute `silu_and_mul` with torch operations."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def silu_and_mul_triton(gate_up: Tensor) -> Tensor:
    """Compute `silu_and_mul` in one Triton kernel, rounding once."""
    return _launch(gate_up, gate_up.shape[1] // 2, "silu_and_mul")


def gelu_and_mul(gate_up: Tensor) -> Tensor:
    """Return GELU(gate) x up, by the error function: [rows, 2 * size], gates first -> [rows, size]."""
    return (gelu_and_mul_triton if _fits(gate_up) else gelu_and_mul_reference)(gate_up)


def gelu_and_mul_reference(gate_up: Tensor) -> Tensor:
    """Compute `gelu_and_mul` with torch operations."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate) * up


def gelu_and_mul_triton(gate_up: Tensor) -> Tensor:
    """Compute `gelu_and_mul` in one Triton kernel, rounding once."""
    return _launch(gate_up, gate_up.shape[1] // 2, "gelu_and_mul")


def gelu_tanh_and_mul(gate_up: Tensor) -> Tensor:
    """Return GELU(gate) x up, by the tanh approximation: [rows, 2 * size], gates first -> [rows, size]."""
    return (gelu_tanh_and_mul_triton if _fits(gate_up) else gelu_tanh_and_mul_reference)(gate_up)


def gelu_tanh_and_mul_reference(gate_up: Tensor) -> Tensor:
    """Compute `gelu_tanh_and_mul` with torch operations."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * up


def gelu_tanh_and_mul_triton(gate_up: Tensor) -> Tensor:
    """Compute `gelu_tanh_and_mul` in one Triton kernel, rounding once."""
    return _launch(gate_up, gate_up.shape[1] // 2, "gelu_tanh_and_mul")


def clamped_swiglu_and_mul(gate_up: Tensor) -> Tensor:
    """Return g sigmoid(1.702 g) (u + 1) with g = min(gate, 7) and u = up within -7 and 7: gates first, as the others.

    It is the activation of gpt-oss's experts (https://arxiv.org/abs/2508.10925).
    """
    return clamped_swiglu_and_mul_reference(gate_up)


def clamped_swiglu_and_mul_reference(gate_up: Tensor) -> Tensor:
    """Compute `clamped_swiglu_and_mul` with torch operations."""
    gate, up = gate_up.chunk(2, dim=-1)
    gate = gate.clamp(max=SWIGLU_LIMIT)
    return gate * torch.sigmoid(SWIGLU_ALPHA * gate) * (up.clamp(-SWIGLU_LIMIT, SWIGLU_LIMIT) + 1.0)


def gelu_tanh(x: Tensor) -> Tensor:
    """Return the tanh approximation of GELU of x [rows, size] (Hendrycks and Gimpel, 2016)."""
    return (gelu_tanh_triton if _fits(x) else gelu_tanh_reference)(x)


def gelu_tanh_reference(x: Tensor) -> Tensor:
    """Compute `gelu_tanh` with torch operations."""
    return F.gelu(x, approximate="tanh")


def gelu_tanh_triton(x: Tensor) -> Tensor:
    """Compute `gelu_tanh` in one Triton kernel."""
    return _launch(x, x.shape[1], "gelu_tanh")


def gelu(x: Tensor) -> Tensor:
    """Return GELU of x [rows, size], by the error function (Hendrycks and Gimpel, 2016)."""
    return (gelu_triton if _fits(x) else gelu_reference)(x)


def gelu_reference(x: Tensor) -> Tensor:
    """Compute `gelu` with torch operations."""
    return F.gelu(x)


def gelu_triton(x: Tensor) -> Tensor:
    """Compute `gelu` in one Triton kernel."""
    return _launch(x, x.shape[1], "gelu")


def _fits(x: Tensor) -> bool:
    return x.dim() == 2 and runs_triton(x)


def _launch(x: Tensor, size: int, kind: str) -> Tensor:
    rows = x.shape[0]
    out = torch.empty((rows, size), dtype=x.dtype, device=x.device)
    _activation_kernel[(rows, triton.cdiv(size, _BLOCK))](
        x, out, x.stride(0), size, KIND=kind, BLOCK=_BLOCK, num_warps=4, **launch_options(x)
    )
    return out


@triton.jit
def activate(x, KIND: tl.constexpr):
    """Apply the activation that KIND names to float32 values; of a gated one, the gate's activation."""
    if KIND == "silu_and_mul":
        return x * tl.sigmoid(x)
    if KIND == "gelu_tanh" or KIND == "gelu_tanh_and_mul":
        # (1 + tanh(y)) / 2 = sigmoid(2 y)
        return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _activation_kernel(x, out, x_stride, size, KIND: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    value = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    if KIND == "silu_and_mul" or KIND == "gelu_and_mul" or KIND == "gelu_tanh_and_mul":
        up = tl.load(x + row * x_stride + size + column, mask=inside, other=0.0).to(tl.float32)
        result = activate(value, KIND) * up
    else:
        result = activate(value, KIND)
    tl.store(out + row * size + column, result.to(out.dtype.element_ty), mask=inside)
