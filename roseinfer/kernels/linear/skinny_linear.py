"""A linear layer with the norm before it and the activation and residual after it, by the fastest measured kernels.

One row uses a kernel that streams the weights (skinny_gemv). A decode batch uses tensor cores: a fused kernel
(skinny_matmul) for shapes where it was measured to be faster, else cuBLAS. More rows always use cuBLAS. A norm,
activation or residual addition that was not measured to be faster inside such a kernel runs as a kernel of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels import activations
from roseinfer.kernels.activations import GATED_ACTIVATIONS, Activation
from roseinfer.kernels.linear.skinny_gemv import GemvTiles, gemv_tiles, skinny_gemv
from roseinfer.kernels.linear.skinny_matmul import MatmulTiles, padded_rows, skinny_matmul, takes
from roseinfer.kernels.norms import Norm, add_layer_norm, add_rms_norm
from roseinfer.kernels.runtime import runs_triton
from roseinfer.kernels.tuning import tuned


def skinny_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return activation(norm(x) W^T + b) + residual. Only the matrix product is mandatory.

    x: [rows, size]; weight: [outputs, size]; result: [rows, outputs]. With a gated activation, the weight contains all
    gate rows, then all up rows, and the result has outputs / 2 columns. A fused kernel accumulates in float32 and
    rounds once; separate kernels round after each operation.
    """
    fused = fused_linear(x, weight, bias, norm=norm, activation=activation, residual=residual)
    if fused is not None:
        return fused
    if norm is not None:
        if norm.centered:
            x = add_layer_norm(x, None, norm.weight, norm.bias, norm.eps)[0]
        else:
            x = add_rms_norm(x, None, norm.weight, norm.eps)[0]
        return skinny_linear(x, weight, bias, activation=activation, residual=residual)
    out = F.linear(x, weight, bias)
    if activation is not None:
        out = getattr(activations, activation)(out)
    return out if residual is None else out + residual


def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor | None:
    """Compute `skinny_linear` in one kernel, or return None if separate kernels are faster."""
    tiles = fused_tiles(x, weight, bias, norm=norm, activation=activation, residual=residual)
    if isinstance(tiles, GemvTiles):
        return skinny_gemv(x, weight, bias, norm=norm, activation=activation, residual=residual, tiles=tiles)
    if isinstance(tiles, MatmulTiles):
        return skinny_matmul(x, weight, bias, norm=norm, activation=activation, residual=residual, tiles=tiles)
    return None


def skinny_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute `skinny_linear` with torch operations in float32 or float64, rounding once."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    out = x.to(dtype)
    if norm is not None and norm.centered:
        shift = None if norm.bias is None else norm.bias.to(dtype)
        out = F.layer_norm(out, (x.shape[1],), norm.weight.to(dtype), shift, norm.eps)
    elif norm is not None:
        out = F.rms_norm(out, (x.shape[1],), norm.weight.to(dtype), norm.eps)
    out = F.linear(out, weight.to(dtype), None if bias is None else bias.to(dtype))
    if activation is not None:
        out = getattr(activations, f"{activation}_reference")(out)
    return (out if residual is None else out + residual.to(dtype)).to(x.dtype)


def fused_tiles(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
) -> GemvTiles | MatmulTiles | None:
    """Return the tile sizes of the fused kernel, or None if separate kernels are faster."""
    rows = len(x)
    if activation == "clamped_swiglu_and_mul":
        return None  # only experts have it, and kernels of their own
    if not takes(rows, norm, activation) or x.dim() != 2 or x.dtype != weight.dtype:
        return None
    if not runs_triton(x, weight, bias, residual):
        return None
    known = tuned(x.device).get(linear_key(rows, weight, norm, activation, residual))
    if rows == 1:
        if known is not None:
            return GemvTiles(*known) if known else None
        if norm is not None or residual is not None:
            return None  # on an H200, a separate kernel for residual and norm was faster
        return gemv_tiles(weight.shape[1], gated=activation in GATED_ACTIVATIONS)
    # skinny_matmul multiplies before it divides by the norm: such products overflow float16.
    if not known or (x.dtype != torch.bfloat16 and (x.dtype != torch.float16 or norm is not None)):
        return None
    return MatmulTiles(*known)


def linear_key(
    rows: int, weight: Tensor, norm: Norm | None, activation: Activation | None, residual: Tensor | None
) -> str:
    """Return the key of this layer's tuned choice, for `tuning.tuned`."""
    kind = None if norm is None else "layer" if norm.centered else "rms"
    parts = [part for part in (kind, activation, None if residual is None else "residual") if part is not None]
    outputs, size = weight.shape
    counted = 1 if rows == 1 else padded_rows(rows)
    return f"{'+'.join(parts) or 'plain'} {str(weight.dtype).removeprefix('torch.')} {counted}x{outputs}x{size}"
