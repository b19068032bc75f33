"""A linear layer for a decode batch on tensor cores, with its norm, activation and residual in the same kernel.

Even a batch of 64 rows is limited by reading weights, and each separate kernel around the product would cost about as
much as the product itself. If there are too few outputs to fill the device, the weights' columns are split over several
programs (split-K), and the last program to finish adds up the splits (as Stream-K does, Osama et al., 2023). The order
of addition is fixed, so results do not depend on which program finishes last. Hopper's wgmma needs 64 rows of its first
operand: wide tiles use the weights as first operand (out^T = W x^T), narrow ones x. Under programmatic dependent
launch, each program prefetches weights into L2 before the preceding kernel has finished.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.kernels.activations import GATED_ACTIVATIONS, Activation, activate
from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.linear.prefetch import prefetch_columns, prefetch_vector
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.runtime import (
    MAX_ARRIVALS,
    arrivals,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    tl,
    triton,
)
from roseinfer.kernels.tile_product import added_product

MAX_MATMUL_ROWS = 128
"""Maximum rows of x. With more rows, cuBLAS is as fast."""


@dataclass(frozen=True)
class MatmulTiles:
    """Tile sizes and options of a launch."""

    outputs: int
    """Outputs per program: rows of the weight, or with a gated activation pairs of rows."""
    columns: int
    """Columns of x and of the weight per iteration."""
    splits: int
    """Programs that share the columns of the same outputs (split-K)."""
    num_warps: int
    num_stages: int
    prefetch: int
    """Columns of the weight to prefetch before waiting for the preceding kernel."""
    early: int = 0
    """1 if the next kernel may start, and prefetch its weights, while this kernel still waits; else 0."""


def padded_rows(rows: int) -> int:
    """Return the number of rows of a tile: a power of two, at least 16."""
    return max(16, next_power_of_two(rows))


def takes(rows: int, norm: Norm | None, activation: Activation | None) -> bool:
    """True if the kernel supports this layer. A layer norm before a gated MLP is not supported: no model has it."""
    return 0 < rows <= MAX_MATMUL_ROWS and not (norm is not None and norm.centered and activation in GATED_ACTIVATIONS)


def skinny_matmul(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    tiles: MatmulTiles,
) -> Tensor:
    """Compute `skinny_linear` in one Triton kernel, for up to MAX_MATMUL_ROWS rows.

    Sums are float32, and the result is rounded once. With a norm, the product's operand is x times the norm's weight,
    rounded to x's dtype; the rest of the norm is applied to the sums. For an RMS norm, this is as exact as rounding the
    normed values, since the relative error of a factor is the same. For a layer norm, the mean is subtracted last; the
    rounding error is of the same order as that of x, which is rounded itself. In float16, x times the norm's weight
    must not overflow.
    """
    rows, size = x.shape
    gated = activation in GATED_ACTIVATIONS
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    split_size = triton.cdiv(triton.cdiv(size, tiles.columns), tiles.splits) * tiles.columns
    splits = triton.cdiv(size, split_size)
    programs = triton.cdiv(outputs, tiles.outputs)
    padded = padded_rows(rows)
    # Elements per split: its sums, then two statistics per row and two per output for the norm.
    slot = padded * tiles.outputs * (2 if gated else 1) + 2 * padded + 2 * tiles.outputs
    partials = out
    if splits > 1:
        assert programs <= MAX_ARRIVALS
        partials = torch.empty((programs, splits, slot), dtype=torch.float32, device=x.device)
    _matmul_kernel[(programs, splits)](
        x,
        weight,
        x if bias is None else bias,
        x if residual is None else residual,
        x if norm is None else norm.weight,
        x if norm is None or norm.bias is None else norm.bias,
        out,
        partials,
        arrivals(x.device),
        rows,
        outputs,
        x.stride(0),
        weight.stride(0),
        0 if residual is None else residual.stride(0),
        0.0 if norm is None else norm.eps,
        SIZE=size,
        PADDED=next_power_of_two(size),
        SPLIT_SIZE=split_size,
        SPLITS=splits,
        SLOT=slot,
        ROWS=padded,
        OUTPUTS=tiles.outputs,
        COLUMNS=tiles.columns,
        PREFETCH=min(tiles.prefetch, next_power_of_two(split_size)),
        EARLY=tiles.early == 1,
        ACTIVATION="none" if activation is None else activation,
        NORM="none" if norm is None else "layer" if norm.centered else "rms",
        HAS_NORM_BIAS=norm is not None and norm.bias is not None,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(x),
    )
    return out


@triton.jit(do_not_specialize=["num_rows"])  # do not recompile for another batch size
def _matmul_kernel(
    x,
    weight,
    bias,
    residual,
    norm_weight,
    norm_bias,
    out,
    partials,
    arrived_splits,
    num_rows,
    num_outputs,
    x_stride,
    weight_stride,
    residual_stride,
    eps,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    SPLIT_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    SLOT: tl.constexpr,
    ROWS: tl.constexpr,
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
    WEIGHTS_FIRST: tl.constexpr = OUTPUTS >= 64 or ROWS < 64
    WHOLE: tl.constexpr = SIZE % SPLIT_SIZE == 0
    tile = tl.program_id(0)
    split = tl.program_id(1)
    within = tl.arange(0, OUTPUTS)
    output = tile * OUTPUTS + within
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    begin = split * SPLIT_SIZE
    # Outputs past the end repeat the last one: loads need no mask, and the results are not stored.
    weight_rows = weight + tl.minimum(output, num_outputs - 1).to(tl.int64) * weight_stride
    up_rows = weight_rows + num_outputs.to(tl.int64) * weight_stride
    # Rows past the end wrap around to the first ones; their results are not stored either. Repeating the last row would
    # make all programs wait for the same row: with 40 of 64 rows, a layer of llama-3-8b took 229 us instead of 146.
    x_rows = x + row % num_rows * x_stride
    if PDL:
        # A step reads more bytes than L2 holds, so no weights are cached.
        if NORM != "none":
            prefetch_vector(norm_weight, SIZE, PADDED)
        if HAS_NORM_BIAS:
            prefetch_vector(norm_bias, SIZE, PADDED)
        if HAS_BIAS:
            prefetch_columns(bias + tl.arange(0, 1), tile * OUTPUTS, num_outputs, OUTPUTS)
        if PREFETCH > 0:
            prefetch_columns(weight_rows, begin, SIZE, PREFETCH)
            if GATED:
                prefetch_columns(up_rows, begin, SIZE, PREFETCH)
        if EARLY:
            gdc_launch_dependents()
        gdc_wait()
        if not EARLY:
            gdc_launch_dependents()

    sums = tl.zeros((OUTPUTS, ROWS) if WEIGHTS_FIRST else (ROWS, OUTPUTS), tl.float32)
    up_sums = sums
    # One partial sum per eight columns, which one thread holds. Threads combine their sums once, after the loop.
    squares = tl.zeros((ROWS, COLUMNS // 8), tl.float32)
    totals = tl.zeros((ROWS, COLUMNS // 8), tl.float32)
    # Layer norm: sums of each output's weights times the norm's weight and bias, as two of 16 columns of a product.
    extra = tl.arange(0, 16)[:, None]
    weight_sums = tl.zeros((OUTPUTS, 16) if WEIGHTS_FIRST else (16, OUTPUTS), tl.float32)
    if NORM != "none":
        next_gain = tl.load(norm_weight + begin + column, mask=begin + column < SIZE, other=0.0)
    if HAS_NORM_BIAS:
        next_shift = tl.load(norm_bias + begin + column, mask=begin + column < SIZE, other=0.0)
    for start in range(0, SPLIT_SIZE, COLUMNS):
        at = begin + start + column
        if WHOLE:
            values = tl.load(x_rows[:, None] + at[None, :])
            weights = tl.load(weight_rows[:, None] + at[None, :])
            if GATED:
                up_weights = tl.load(up_rows[:, None] + at[None, :])
        else:
            inside = (at < SIZE)[None, :]
            values = tl.load(x_rows[:, None] + at[None, :], mask=inside, other=0.0)
            weights = tl.load(weight_rows[:, None] + at[None, :], mask=inside, other=0.0)
            if GATED:
                up_weights = tl.load(up_rows[:, None] + at[None, :], mask=inside, other=0.0)
        if NORM != "none":
            gain = next_gain
            next_gain = tl.load(norm_weight + at + COLUMNS, mask=at + COLUMNS < SIZE, other=0.0)
            wide = values.to(tl.float32)
            squares += tl.sum(tl.reshape(wide * wide, (ROWS, COLUMNS // 8, 8)), 2)
            values = (values * gain[None, :]).to(weights.dtype)
            if NORM == "layer":
                totals += tl.sum(tl.reshape(wide, (ROWS, COLUMNS // 8, 8)), 2)
                shift = tl.zeros_like(gain)
                if HAS_NORM_BIAS:
                    shift = next_shift
                    next_shift = tl.load(norm_bias + at + COLUMNS, mask=at + COLUMNS < SIZE, other=0.0)
                both = tl.where(extra == 0, gain[None, :], tl.where(extra == 1, shift[None, :], 0.0))
                weight_sums = added_product(weights, both.to(weights.dtype), weight_sums, WEIGHTS_FIRST)
        sums = added_product(weights, values, sums, WEIGHTS_FIRST)
        if GATED:
            up_sums = added_product(up_weights, values, up_sums, WEIGHTS_FIRST)

    squares = tl.sum(squares, 1)
    totals = tl.sum(totals, 1)
    if WEIGHTS_FIRST:
        sums = tl.trans(sums)
        up_sums = tl.trans(up_sums)
        weight_sums = tl.trans(weight_sums)
    gains = tl.sum(tl.where(extra == 0, weight_sums, 0.0), 0)
    shifts = tl.sum(tl.where(extra == 1, weight_sums, 0.0), 0)
    if SPLITS > 1:
        PRODUCT: tl.constexpr = ROWS * OUTPUTS
        NORM_AT: tl.constexpr = 2 * PRODUCT if GATED else PRODUCT
        first = partials + tile.to(tl.int64) * SPLITS * SLOT
        place = row[:, None] * OUTPUTS + within[None, :]
        own = first + split * SLOT
        tl.store(own + place, sums)
        if GATED:
            tl.store(own + PRODUCT + place, up_sums)
        if NORM != "none":
            tl.store(own + NORM_AT + row, squares)
        if NORM == "layer":
            tl.store(own + NORM_AT + ROWS + row, totals)
            tl.store(own + NORM_AT + 2 * ROWS + within, gains)
            tl.store(own + NORM_AT + 2 * ROWS + OUTPUTS + within, shifts)
        if not is_last(arrived_splits + tile, SPLITS):
            return

    live = output < num_outputs
    mask = (row < num_rows)[:, None] & live[None, :]
    if HAS_RESIDUAL:
        before = tl.load(residual + row[:, None] * residual_stride + output[None, :], mask=mask, other=0.0)
    if HAS_BIAS:
        offset = tl.load(bias + output, mask=live, other=0.0).to(tl.float32)[None, :]
        if GATED:
            up_offset = tl.load(bias + num_outputs + output, mask=live, other=0.0).to(tl.float32)[None, :]
    if SPLITS > 1:
        sums = _joined(first + place, SPLITS, SLOT)
        if GATED:
            up_sums = _joined(first + PRODUCT + place, SPLITS, SLOT)
        if NORM != "none":
            squares = _joined(first + NORM_AT + row, SPLITS, SLOT)
        if NORM == "layer":
            totals = _joined(first + NORM_AT + ROWS + row, SPLITS, SLOT)
            gains = _joined(first + NORM_AT + 2 * ROWS + within, SPLITS, SLOT)
            shifts = _joined(first + NORM_AT + 2 * ROWS + OUTPUTS + within, SPLITS, SLOT)

    result = sums
    if NORM == "rms":
        scale = tl.rsqrt(squares / SIZE + eps)
        result *= scale[:, None]
    if NORM == "layer":
        mean = totals / SIZE
        scale = tl.rsqrt(tl.maximum(squares / SIZE - mean * mean, 0.0) + eps)
        result = (result - mean[:, None] * gains[None, :]) * scale[:, None] + shifts[None, :]
    if HAS_BIAS:
        result += offset
    if GATED:
        up_result = up_sums
        if NORM == "rms":
            up_result *= scale[:, None]
        if HAS_BIAS:
            up_result += up_offset
        result = activate(result, ACTIVATION) * up_result
    elif ACTIVATION != "none":
        result = activate(result, ACTIVATION)
    if HAS_RESIDUAL:
        result += before.to(tl.float32)
    tl.store(out + row[:, None] * num_outputs + output[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _joined(first, SPLITS: tl.constexpr, SLOT: tl.constexpr):
    """Return the sum over all splits' partial results."""
    total = tl.load(first, cache_modifier=".cg")
    for split in tl.static_range(1, SPLITS):
        total += tl.load(first + split * SLOT, cache_modifier=".cg")
    return total
