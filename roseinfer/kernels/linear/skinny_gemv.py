"""A linear layer for one row, with the norm before it and the activation and residual after it in the same kernel.

With one row, a matrix product is limited by memory bandwidth: the weights are read once, and the row stays in a cache.
Under programmatic dependent launch, each program loads its first weights before the preceding kernel has finished.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.kernels.activations import GATED_ACTIVATIONS, Activation, activate
from roseinfer.kernels.linear.prefetch import prefetch_columns, prefetch_vector
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.runtime import gdc_launch_dependents, gdc_wait, launch_options, next_power_of_two, tl, triton


@dataclass(frozen=True)
class GemvTiles:
    """Tile sizes and options of a launch."""

    outputs: int
    """Outputs (rows of the weight) per program."""
    columns: int
    """Columns of the weight per iteration."""
    num_warps: int
    prefetch: int = 0
    """Further columns to prefetch before waiting for the preceding kernel."""
    early: int = 0
    """1 if the next kernel may start, and prefetch its weights, while this kernel still waits; else 0."""


def skinny_gemv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    tiles: GemvTiles | None = None,
) -> Tensor:
    """Compute `skinny_linear` of one row, x [1, size], in one Triton kernel."""
    rows, size = x.shape
    assert rows == 1
    gated = activation in GATED_ACTIVATIONS
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    tiles = tiles or gemv_tiles(size, gated=gated)
    out = torch.empty((1, outputs), dtype=x.dtype, device=x.device)
    _gemv_kernel[(triton.cdiv(outputs, tiles.outputs),)](
        x,
        weight,
        x if bias is None else bias,
        x if residual is None else residual,
        x if norm is None else norm.weight,
        x if norm is None or norm.bias is None else norm.bias,
        out,
        0.0 if norm is None else norm.eps,
        outputs,
        weight.stride(0),
        SIZE=size,
        PADDED=next_power_of_two(size),
        OUTPUTS=tiles.outputs,
        COLUMNS=tiles.columns,
        PREFETCH=tiles.prefetch,
        EARLY=tiles.early == 1,
        ACTIVATION="none" if activation is None else activation,
        NORM="none" if norm is None else "layer" if norm.centered else "rms",
        HAS_NORM_BIAS=norm is not None and norm.bias is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=tiles.num_warps,
        **launch_options(x),
    )
    return out


def gemv_tiles(size: int, *, gated: bool = False) -> GemvTiles:
    """Return default tiles, the best on an H200 for the layers of three models.

    `benchmarks.kernels --tune` measures others. A program runs at least two iterations, so that it can load the next
    weights during the current iteration. A thread holds 32 weights.
    """
    columns = min(2048, max(size & -size, 256))
    while columns > 256 and (size < 2 * columns or (size > 6 * columns and columns > 1024)):
        columns //= 2
    matrices = 2 if gated else 1
    per_program = max(2, 2048 // (columns * matrices))
    num_warps = max(1, per_program * columns * matrices // 1024)
    return GemvTiles(outputs=per_program, columns=columns, num_warps=num_warps)


@triton.jit
def _gemv_kernel(
    x,
    weight,
    bias,
    residual,
    norm_weight,
    norm_bias,
    out,
    eps,
    num_outputs,
    weight_stride,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PREFETCH: tl.constexpr,
    EARLY: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORM: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    GATED: tl.constexpr = (
        ACTIVATION == "silu_and_mul" or ACTIVATION == "gelu_and_mul" or ACTIVATION == "gelu_tanh_and_mul"
    )
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.arange(0, COLUMNS)
    live = output < num_outputs
    place = weight + output.to(tl.int64)[:, None] * weight_stride + column[None, :]
    up_place = place + num_outputs.to(tl.int64) * weight_stride
    mask = live[:, None] & (column < SIZE)[None, :]
    tile = tl.load(place, mask=mask, other=0.0, cache_modifier=".cg")
    if GATED:
        up_tile = tl.load(up_place, mask=mask, other=0.0, cache_modifier=".cg")
    if HAS_BIAS:
        offset = tl.load(bias + output, mask=live, other=0.0).to(tl.float32)
        if GATED:
            up_offset = tl.load(bias + num_outputs + output, mask=live, other=0.0).to(tl.float32)
    if PDL:
        # A step reads more bytes than L2 holds, so the norm's weights are not cached either.
        if NORM != "none":
            prefetch_vector(norm_weight, SIZE, PADDED)
        if HAS_NORM_BIAS:
            prefetch_vector(norm_bias, SIZE, PADDED)
        if PREFETCH > 0:
            behind = weight + tl.minimum(output, num_outputs - 1).to(tl.int64) * weight_stride
            prefetch_columns(behind, COLUMNS, SIZE, PREFETCH)
            if GATED:
                prefetch_columns(behind + num_outputs.to(tl.int64) * weight_stride, COLUMNS, SIZE, PREFETCH)
        if EARLY:
            gdc_launch_dependents()
        gdc_wait()
        if not EARLY:
            gdc_launch_dependents()

    if HAS_RESIDUAL:
        before = tl.load(residual + output, mask=live, other=0.0)
    if NORM == "layer":
        mean, deviation = _statistics(x, eps, SIZE, PADDED)
    sums = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    if GATED:
        up_sums = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    if NORM == "rms":
        squares = tl.zeros((COLUMNS,), tl.float32)

    for start in range(0, SIZE, COLUMNS):
        at = start + column
        inside = at < SIZE
        following = live[:, None] & (at + COLUMNS < SIZE)[None, :]
        next_tile = tl.load(place + start + COLUMNS, mask=following, other=0.0)
        weights = tile.to(tl.float32)
        if GATED:
            next_up_tile = tl.load(up_place + start + COLUMNS, mask=following, other=0.0)
            up_weights = up_tile.to(tl.float32)
        if NORM != "none":
            gain = tl.load(norm_weight + at, mask=inside, other=0.0).to(tl.float32)
        if HAS_NORM_BIAS:
            shift = tl.load(norm_bias + at, mask=inside, other=0.0).to(tl.float32)
        values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        if NORM == "rms":
            # The sums are divided by the root mean square after the loop, when it is known.
            squares += values * values
            values = values * gain
        if NORM == "layer":
            values = (values - mean) * deviation * gain
            if HAS_NORM_BIAS:
                values += shift
        sums += weights * values[None, :]
        tile = next_tile
        if GATED:
            up_sums += up_weights * values[None, :]
            up_tile = next_up_tile

    result = tl.sum(sums, 1)
    if NORM == "rms":
        scale = tl.rsqrt(tl.sum(squares, 0) / SIZE + eps)
        result *= scale
    if HAS_BIAS:
        result += offset
    if GATED:
        up_result = tl.sum(up_sums, 1)
        if NORM == "rms":
            up_result *= scale
        if HAS_BIAS:
            up_result += up_offset
        result = activate(result, ACTIVATION) * up_result
    elif ACTIVATION != "none":
        result = activate(result, ACTIVATION)
    if HAS_RESIDUAL:
        result += before.to(tl.float32)
    tl.store(out + output, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _statistics(x, eps, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Return the row's mean and the inverse of its standard deviation."""
    column = tl.arange(0, PADDED)
    inside = column < SIZE
    values = tl.load(x + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, 0) / SIZE
    centered = tl.where(inside, values - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(centered * centered, 0) / SIZE + eps)
