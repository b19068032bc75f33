"""A linear layer for a few rows, with the norm before it and the activation and residual after it in the same kernel.

With one row or a few, a matrix product is a walk over the weights: they are read once, at the memory's speed, while
the rows wait in registers. Under programmatic dependent launch each program fetches its first weights before its
predecessor is done.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from roseinfer.kernels import activations
from roseinfer.kernels.activations import activate
from roseinfer.kernels.norms import add_layer_norm, add_rms_norm
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)
from roseinfer.kernels.tuning import Choice, remember, replay_us, tuned

Shape = tuple[int, int, int, bool]
"""Rows, outputs, size, and whether SiLU x up follows; outputs are counted after it."""
Activation = Literal["silu_and_mul", "gelu", "gelu_tanh"]

MAX_ROWS = 8
"""Rows of x that the kernel takes; with more, tensor cores do better."""
_DEFAULT_MAX_ROWS = 4
"""Rows up to which it is used where nothing was tuned."""


class Norm(NamedTuple):
    """A norm of each row: RMS, or with `centered` a layer norm."""

    weight: Tensor
    eps: float
    bias: Tensor | None = None
    centered: bool = False


@dataclass(frozen=True)
class GemvTiles:
    """How a launch is cut up."""

    outputs: int
    """Outputs (rows of the weight) that a program computes."""
    columns: int
    """Of the weight, that it reads at once."""
    num_warps: int


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
    result has half as many columns. Few rows take one kernel, accumulated in float32 and rounded once; more are
    computed part by part.
    """
    if 0 < len(x) <= MAX_ROWS and _fits(x, weight, bias, residual):
        tiles = _chosen(x, weight, activation)
        if tiles is not None:
            return skinny_linear_triton(
                x, weight, bias, norm=norm, activation=activation, residual=residual, tiles=tiles
            )
    if norm is not None and norm.centered:
        x = add_layer_norm(x, None, norm.weight, norm.bias, norm.eps)[0]
    elif norm is not None:
        x = add_rms_norm(x, None, norm.weight, norm.eps)[0]
    out = F.linear(x, weight, bias)
    if activation is not None:
        out = getattr(activations, activation)(out)
    return out if residual is None else out + residual


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


def skinny_linear_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    tiles: GemvTiles | None = None,
) -> Tensor:
    """The same in one Triton kernel, for up to 8 rows."""
    rows, size = x.shape
    gated = activation == "silu_and_mul"
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    tiles = tiles or gemv_tiles(rows, outputs, size, gated=gated)
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    _gemv_kernel[(triton.cdiv(outputs, tiles.outputs),)](
        x,
        weight,
        x if bias is None else bias,
        x if residual is None else residual,
        x if norm is None else norm.weight,
        x if norm is None or norm.bias is None else norm.bias,
        out,
        outputs,
        x.stride(0),
        weight.stride(0),
        0 if residual is None else residual.stride(0),
        0.0 if norm is None else norm.eps,
        ROWS=rows,
        SIZE=size,
        OUTPUTS=tiles.outputs,
        COLUMNS=tiles.columns,
        ACTIVATION="none" if activation is None else activation,
        NORM="none" if norm is None else "layer" if norm.centered else "rms",
        HAS_NORM_BIAS=norm is not None and norm.bias is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=tiles.num_warps,
        **launch_options(x),
    )
    return out


def gemv_tiles(rows: int, outputs: int, size: int, *, gated: bool = False) -> GemvTiles:
    """What is good on a Hopper by and large: whole 16-byte loads, and a thousand programs or more."""
    columns = min(1024, next_power_of_two(size))
    while columns > 256 and size > columns and size % columns:
        columns //= 2
    at_once = (4096 if rows == 1 else 2048) // (2 if gated else 1)
    per_program = min(at_once // columns, next_power_of_two(max(outputs // 2048, 1)), 8)
    return GemvTiles(outputs=max(1, per_program), columns=columns, num_warps=4 if columns >= 256 else 1)


def gemv_candidates(rows: int, outputs: int, size: int, *, gated: bool = False) -> list[GemvTiles]:
    """What to try when tuning."""
    default = gemv_tiles(rows, outputs, size, gated=gated)
    tried = [
        GemvTiles(per_program, columns, warps)
        for columns in (256, 512, 1024, 2048)
        if size % columns == 0 or columns // 2 < size < columns
        for per_program in (1, 2, 4, 8)
        for warps in (4, 8)
        if 8 <= per_program * columns * (2 if gated else 1) // (32 * warps) <= (64 if rows == 1 else 128 // rows)
    ]
    return [default, *(tiles for tiles in tried if tiles != default)]


def tune(shapes: Iterable[Shape], device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Measure what is best for each (rows, outputs, size, gated) and keep it: key -> microseconds of the winner.

    Torch's own product takes part. Weights are read in turn from more memory than the device caches.
    """
    choices: dict[str, Choice] = {}
    times: dict[str, float] = {}
    for rows, outputs, size, gated in shapes:
        doubled = outputs * 2 if gated else outputs
        count = max(3, min(40, (1 << 28) // (doubled * size * dtype.itemsize)))
        weights = [torch.randn(doubled, size, device=device, dtype=dtype) for _ in range(count)]
        x = torch.randn(rows, size, device=device, dtype=dtype)
        activation: Activation | None = "silu_and_mul" if gated else None
        key = linear_key(rows, weights[0], activation)
        product = partial(_each, weights, partial(_library, x, gated))
        choices[key], times[key] = (), replay_us(product) / count
        for tiles in gemv_candidates(rows, outputs, size, gated=gated):
            launch = partial(skinny_linear_triton, x, activation=activation, tiles=tiles)
            with contextlib.suppress(RuntimeError):  # tiles that this device has no room for
                time = replay_us(partial(_each, weights, launch)) / count
                if time < times[key]:
                    choices[key], times[key] = (tiles.outputs, tiles.columns, tiles.num_warps), time
    remember(device, choices)
    return times


def _each(weights: list[Tensor], product: Callable[[Tensor], Tensor]) -> None:
    for weight in weights:
        product(weight)


def _library(x: Tensor, gated: bool, weight: Tensor) -> Tensor:
    out = F.linear(x, weight)
    return activations.silu_and_mul(out) if gated else out


def linear_key(rows: int, weight: Tensor, activation: Activation | None) -> str:
    """What a tuned choice is kept under."""
    outputs, size = weight.shape
    kind = "gated" if activation == "silu_and_mul" else "linear"
    return f"{kind} {str(weight.dtype).removeprefix('torch.')} {rows}x{outputs}x{size}"


def _chosen(x: Tensor, weight: Tensor, activation: Activation | None) -> GemvTiles | None:
    """The tiles for this layer, or None where torch's own product is faster."""
    known = tuned(x.device).get(linear_key(len(x), weight, activation))
    if known is not None:
        return GemvTiles(*known) if known else None
    if len(x) > _DEFAULT_MAX_ROWS:
        return None
    gated = activation == "silu_and_mul"
    return gemv_tiles(len(x), weight.shape[0] // (2 if gated else 1), weight.shape[1], gated=gated)


def _fits(x: Tensor, weight: Tensor, *others: Tensor | None) -> bool:
    return x.dim() == 2 and x.dtype == weight.dtype and runs_triton(x, weight, *others)


@triton.jit
def _gemv_kernel(
    x,
    weight,
    bias,
    residual,
    norm_weight,
    norm_bias,
    out,
    num_outputs,
    x_stride,
    weight_stride,
    residual_stride,
    eps,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    NORM: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    GATED: tl.constexpr = ACTIVATION == "silu_and_mul"
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.arange(0, COLUMNS)
    live = output < num_outputs
    place = weight + output.to(tl.int64)[:, None] * weight_stride + column[None, :]
    up_place = place + num_outputs.to(tl.int64) * weight_stride
    mask = live[:, None] & (column < SIZE)[None, :]
    tile = tl.load(place, mask=mask, other=0.0, cache_modifier=".cg")
    if GATED:
        up_tile = tl.load(up_place, mask=mask, other=0.0, cache_modifier=".cg")
    if PDL:
        gdc_wait()
        gdc_launch_dependents()

    if NORM == "layer":
        means, deviations = _row_statistics(x, x_stride, eps, ROWS, SIZE, COLUMNS)
    sums = _zeros(ROWS, OUTPUTS, COLUMNS)
    up_sums = _zeros(ROWS, OUTPUTS, COLUMNS) if GATED else ()
    squares = ()
    if NORM == "rms":
        for _row in tl.static_range(ROWS):
            squares = squares + (tl.zeros((COLUMNS,), tl.float32),)

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
        new_sums = ()
        new_up_sums = ()
        new_squares = ()
        for row in tl.static_range(ROWS):
            values = tl.load(x + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
            if NORM == "rms":
                # Divided by their root mean square at the end: it need not be known before.
                new_squares = new_squares + (squares[row] + values * values,)
                values = values * gain
            if NORM == "layer":
                values = (values - means[row]) * deviations[row] * gain
                if HAS_NORM_BIAS:
                    values += shift
            new_sums = new_sums + (sums[row] + weights * values[None, :],)
            if GATED:
                new_up_sums = new_up_sums + (up_sums[row] + up_weights * values[None, :],)
        sums = new_sums
        tile = next_tile
        if GATED:
            up_sums = new_up_sums
            up_tile = next_up_tile
        if NORM == "rms":
            squares = new_squares

    for row in tl.static_range(ROWS):
        result = tl.sum(sums[row], 1)
        if NORM == "rms":
            scale = tl.rsqrt(tl.sum(squares[row], 0) / SIZE + eps)
            result *= scale
        if HAS_BIAS:
            result += tl.load(bias + output, mask=live, other=0.0).to(tl.float32)
        if GATED:
            up_result = tl.sum(up_sums[row], 1)
            if NORM == "rms":
                up_result *= scale
            if HAS_BIAS:
                up_result += tl.load(bias + num_outputs + output, mask=live, other=0.0).to(tl.float32)
            result = activate(result, "silu") * up_result
        elif ACTIVATION != "none":
            result = activate(result, ACTIVATION)
        if HAS_RESIDUAL:
            result += tl.load(residual + row * residual_stride + output, mask=live, other=0.0).to(tl.float32)
        tl.store(out + row * num_outputs + output, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _zeros(ROWS: tl.constexpr, OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr):
    sums = ()
    for _row in tl.static_range(ROWS):
        sums = sums + (tl.zeros((OUTPUTS, COLUMNS), tl.float32),)
    return sums


@triton.jit
def _row_statistics(x, x_stride, eps, ROWS: tl.constexpr, SIZE: tl.constexpr, COLUMNS: tl.constexpr):
    """Each row's mean and the inverse of its standard deviation."""
    column = tl.arange(0, COLUMNS)
    means = ()
    deviations = ()
    for row in tl.static_range(ROWS):
        total = tl.zeros((COLUMNS,), tl.float32)
        for start in range(0, SIZE, COLUMNS):
            at = start + column
            total += tl.load(x + row * x_stride + at, mask=at < SIZE, other=0.0).to(tl.float32)
        mean = tl.sum(total, 0) / SIZE
        square = tl.zeros((COLUMNS,), tl.float32)
        for start in range(0, SIZE, COLUMNS):
            at = start + column
            offset = tl.load(x + row * x_stride + at, mask=at < SIZE, other=0.0).to(tl.float32) - mean
            square += tl.where(at < SIZE, offset * offset, 0.0)
        means = means + (mean,)
        deviations = deviations + (tl.rsqrt(tl.sum(square, 0) / SIZE + eps),)
    return means, deviations
