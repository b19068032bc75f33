"""A linear layer with the norm before it and the activation and residual after it, by whatever computes it fastest.

For one row that is a kernel that walks over the weights (skinny_gemv); a decode batch takes tensor cores, where
measured by a kernel of ours (skinny_matmul); more rows take the library's products. What was not measured to be faster
inside such a kernel has one of its own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels import activations
from roseinfer.kernels.activations import Activation
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
    """activation(norm(x) W^T + b) + residual, each part but the product optional.

    x [rows, size], weight [outputs, size]; with "silu_and_mul" the weight holds all gates, then all ups, and the
    result has half as many columns. In one kernel, sums are float32 and rounded once; else each part is rounded.
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
    """The same in one kernel; None where it is faster part by part."""
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
    """The same with torch operations in float32 or float64, rounded once."""
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
    """How that kernel is cut up; None where it is faster part by part."""
    rows = len(x)
    if not takes(rows, norm, activation) or x.dim() != 2 or x.dtype != weight.dtype:
        return None
    if not runs_triton(x, weight, bias, residual):
        return None
    known = tuned(x.device).get(linear_key(rows, weight, norm, activation, residual))
    if rows == 1:
        if known is not None:
            return GemvTiles(*known) if known else None
        if norm is not None or residual is not None:
            return None  # on an H200 their own kernel, which does both, was faster
        return gemv_tiles(weight.shape[1], gated=activation == "silu_and_mul")
    # float16 has not the range for what a norm makes of its input before it divides.
    if not known or (x.dtype != torch.bfloat16 and (x.dtype != torch.float16 or norm is not None)):
        return None
    return MatmulTiles(*known)


def linear_key(
    rows: int, weight: Tensor, norm: Norm | None, activation: Activation | None, residual: Tensor | None
) -> str:
    """What a tuned choice is kept under."""
    kind = None if norm is None else "layer" if norm.centered else "rms"
    parts = [part for part in (kind, activation, None if residual is None else "residual") if part is not None]
    outputs, size = weight.shape
    counted = 1 if rows == 1 else padded_rows(rows)
    return f"{'+'.join(parts) or 'plain'} {str(weight.dtype).removeprefix('torch.')} {counted}x{outputs}x{size}"
