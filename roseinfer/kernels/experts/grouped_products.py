"""Products of many tokens with their experts, expert by expert, on tensor cores.

Rows sorted by expert are cut into tiles that hold rows of one expert. A launch has as many programs as the most tiles
that its rows can have; which tile belongs to which expert is found on the device, and programs without a tile end at
once. A launch thus depends only on the number of tokens, and a CUDA graph can replay it for any routing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.experts.expert_activation import gated
from roseinfer.kernels.experts.expert_order import ExpertOrder
from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    tl,
    triton,
)
from roseinfer.kernels.tile_product import added_product


@dataclass(frozen=True)
class GroupTiles:
    """Tile sizes and options of a launch."""

    rows: int
    """Rows per program, all of one expert."""
    outputs: int
    """Outputs per program: rows of an expert's matrix, or pairs of gate and up."""
    columns: int
    """Columns per iteration."""
    group: int
    """Tiles of rows that run side by side before the next outputs, so that they share the cache."""
    num_warps: int
    num_stages: int


def grouped_gate_up(
    x: Tensor,
    order: ExpertOrder,
    top_k: int,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    tiles: GroupTiles,
) -> Tensor:
    """Return activation(x W^T + b) of the sorted pairs, [tokens * top_k, intermediate].

    x [tokens, size]; weight [experts, 2 * intermediate, size]; bias [experts, 2 * intermediate].
    """
    width = weight.shape[1] // 2
    out = torch.empty((len(order.pairs), width), dtype=x.dtype, device=x.device)
    _launch(x, order, top_k, weight, bias, None, out, width, activation, tiles)
    return out


def grouped_down(
    active: Tensor,
    order: ExpertOrder,
    weights: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tiles: GroupTiles,
) -> Tensor:
    """Return w (a W^T + b) of each pair with weight w, in the pairs' own order, [tokens * top_k, size].

    active [tokens * top_k, intermediate], sorted; weights [tokens, top_k]; weight [experts, size, intermediate].
    """
    out = torch.empty((len(order.pairs), weight.shape[1]), dtype=active.dtype, device=active.device)
    _launch(active, order, 1, weight, bias, weights, out, weight.shape[1], None, tiles)
    return out


def _launch(
    x: Tensor,
    order: ExpertOrder,
    top_k: int,
    weight: Tensor,
    bias: Tensor | None,
    weights: Tensor | None,
    out: Tensor,
    outputs: int,
    activation: Activation | None,
    tiles: GroupTiles,
) -> None:
    num_pairs, num_experts = len(order.pairs), len(weight)
    # Each expert's last tile may be partly filled.
    row_tiles = min(num_pairs, num_experts + num_pairs // tiles.rows)
    output_tiles = triton.cdiv(outputs, tiles.outputs)
    _grouped_kernel[(row_tiles * output_tiles,)](
        x,
        weight,
        x if bias is None else bias,
        order.pairs,
        order.starts,
        x if weights is None else weights,
        out,
        row_tiles,
        outputs,
        num_experts,
        x.stride(0),
        SIZE=x.shape[1],
        TOP_K=top_k,
        EXPERTS=next_power_of_two(num_experts),
        ROWS=tiles.rows,
        OUTPUTS=tiles.outputs,
        COLUMNS=tiles.columns,
        GROUP=tiles.group,
        ACTIVATION="none" if activation is None else activation,
        HAS_BIAS=bias is not None,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        **launch_options(x),
    )


def sum_pairs(outputs: Tensor, tokens: int, residual: Tensor | None) -> Tensor:
    """Return the sum of each token's pairs, in order, plus the residual: [tokens * top_k, size] -> [tokens, size]."""
    size = outputs.shape[1]
    out = torch.empty((tokens, size), dtype=outputs.dtype, device=outputs.device)
    block = min(1024, next_power_of_two(size))
    _sum_kernel[(tokens, triton.cdiv(size, block))](
        outputs,
        outputs if residual is None else residual,
        out,
        size,
        0 if residual is None else residual.stride(0),
        TOP_K=len(outputs) // tokens,
        BLOCK=block,
        HAS_RESIDUAL=residual is not None,
        num_warps=4,
        **launch_options(outputs),
    )
    return out


@triton.jit(do_not_specialize=["row_tiles"])
def _grouped_kernel(
    x,
    weight,
    bias,
    pairs,
    starts,
    weights,
    out,
    row_tiles,
    num_outputs,
    num_experts,
    x_stride,
    SIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    GATED: tl.constexpr = ACTIVATION != "none"
    # With few rows, the weights are the first operand: wgmma needs 64 rows of it.
    WEIGHTS_FIRST: tl.constexpr = ROWS < 64
    if PDL:
        gdc_wait()
        gdc_launch_dependents()

    # Groups of GROUP tiles of rows run through all outputs before the next group.
    program = tl.program_id(0)
    output_tiles = tl.cdiv(num_outputs, OUTPUTS)
    group = program // (GROUP * output_tiles)
    rows_in_group = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = program % (GROUP * output_tiles)
    tile = group * GROUP + within % rows_in_group
    output = within // rows_in_group * OUTPUTS + tl.arange(0, OUTPUTS)

    # Find the expert of the tile: experts have their tiles one after another.
    each = tl.arange(0, EXPERTS)
    begins = tl.load(starts + each, mask=each < num_experts, other=0)
    counts = tl.load(starts + each + 1, mask=each < num_experts, other=0) - begins
    tiles = (counts + ROWS - 1) // ROWS
    ends = tl.cumsum(tiles, 0)
    expert = tl.sum((ends <= tile).to(tl.int32), 0)
    if expert >= EXPERTS:
        return
    own = each == expert
    begin = tl.sum(tl.where(own, begins, 0), 0)
    count = tl.sum(tl.where(own, counts, 0), 0)
    earlier = tl.sum(tl.where(each < expert, tiles, 0), 0)
    row = (tile - earlier) * ROWS + tl.arange(0, ROWS)
    present = row < count
    # Rows and outputs past the end repeat others: their loads need no mask, and their results are not stored.
    sorted_row = begin + tl.where(present, row, 0)
    pair = tl.load(pairs + sorted_row)
    x_rows = x + (pair // TOP_K).to(tl.int64) * x_stride if GATED else x + sorted_row.to(tl.int64) * x_stride
    live = output < num_outputs
    MATRICES: tl.constexpr = 2 if GATED else 1
    weight_row = expert.to(tl.int64) * num_outputs * MATRICES + tl.where(live, output, 0)
    weight_rows = weight + weight_row * SIZE
    up_rows = weight_rows + num_outputs.to(tl.int64) * SIZE

    column = tl.arange(0, COLUMNS)
    sums = tl.zeros((OUTPUTS, ROWS) if WEIGHTS_FIRST else (ROWS, OUTPUTS), tl.float32)
    up_sums = sums
    for start in range(0, SIZE, COLUMNS):
        at = start + column
        if SIZE % COLUMNS == 0:
            values = tl.load(x_rows[:, None] + at[None, :])
            tile_weights = tl.load(weight_rows[:, None] + at[None, :])
            if GATED:
                up_weights = tl.load(up_rows[:, None] + at[None, :])
        else:
            inside = (at < SIZE)[None, :]
            values = tl.load(x_rows[:, None] + at[None, :], mask=inside, other=0.0)
            tile_weights = tl.load(weight_rows[:, None] + at[None, :], mask=inside, other=0.0)
            if GATED:
                up_weights = tl.load(up_rows[:, None] + at[None, :], mask=inside, other=0.0)
        sums = added_product(tile_weights, values, sums, WEIGHTS_FIRST)
        if GATED:
            up_sums = added_product(up_weights, values, up_sums, WEIGHTS_FIRST)

    if HAS_BIAS:
        sums += _along(tl.load(bias + weight_row).to(tl.float32), WEIGHTS_FIRST)
        if GATED:
            up_sums += _along(tl.load(bias + weight_row + num_outputs).to(tl.float32), WEIGHTS_FIRST)
    if GATED:
        result = gated(sums, up_sums, ACTIVATION)
        to = sorted_row
    else:
        factor = tl.load(weights + pair).to(tl.float32)
        result = sums * (factor[None, :] if WEIGHTS_FIRST else factor[:, None])
        to = pair
    if WEIGHTS_FIRST:
        place = to.to(tl.int64)[None, :] * num_outputs + output[:, None]
        mask = present[None, :] & live[:, None]
    else:
        place = to.to(tl.int64)[:, None] * num_outputs + output[None, :]
        mask = present[:, None] & live[None, :]
    tl.store(out + place, result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _along(offsets, WEIGHTS_FIRST: tl.constexpr):
    """Return one value per output in the shape of the sums."""
    return offsets[:, None] if WEIGHTS_FIRST else offsets[None, :]


@triton.jit
def _sum_kernel(
    outputs,
    residual,
    out,
    size,
    residual_stride,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    total = tl.zeros((BLOCK,), tl.float32)
    for rank in tl.static_range(TOP_K):
        total += tl.load(outputs + (token * TOP_K + rank) * size + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total += tl.load(residual + token * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token * size + column, total.to(out.dtype.element_ty), mask=inside)
