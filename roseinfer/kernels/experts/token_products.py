"""Products of a few tokens with their experts, token by token, limited by the memory bandwidth.

With few tokens, hardly two of them share an expert. A program multiplies one row by some rows of one expert's matrix,
as `skinny_gemv` does. The second product adds up a token's experts, best first, in registers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from roseinfer.kernels.activations import Activation
from roseinfer.kernels.experts.expert_activation import gated
from roseinfer.kernels.experts.routing import Routing
from roseinfer.kernels.runtime import gdc_launch_dependents, gdc_wait, launch_options, tl, triton


@dataclass(frozen=True)
class TokenTiles:
    """Tile sizes of a launch."""

    outputs: int
    """Outputs per program."""
    columns: int
    """Columns of the matrices per iteration."""
    num_warps: int


def token_gate_up(
    x: Tensor,
    routing: Routing,
    weight: Tensor,
    bias: Tensor | None,
    activation: Activation,
    tiles: TokenTiles,
) -> Tensor:
    """Return activation(W x + b) of each pair of a token and one of its experts, [tokens * top_k, intermediate].

    x [tokens, size]; weight [experts, 2 * intermediate, size]; bias [experts, 2 * intermediate].
    """
    top_k = routing.experts.shape[1]
    width = weight.shape[1] // 2
    out = torch.empty((len(x) * top_k, width), dtype=x.dtype, device=x.device)
    _token_gate_up_kernel[(triton.cdiv(width, tiles.outputs), len(out))](
        x,
        weight,
        x if bias is None else bias,
        routing.experts,
        out,
        x.stride(0),
        width,
        SIZE=x.shape[1],
        TOP_K=top_k,
        OUTPUTS=tiles.outputs,
        COLUMNS=tiles.columns,
        ACTIVATION=activation,
        HAS_BIAS=bias is not None,
        num_warps=tiles.num_warps,
        **launch_options(x),
    )
    return out


def token_down(
    active: Tensor,
    routing: Routing,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    tiles: TokenTiles,
) -> Tensor:
    """Return each token's weighted sum of W a + b over its experts, plus the residual, [tokens, size].

    active [tokens * top_k, intermediate]; weight [experts, size, intermediate]; bias [experts, size]; residual
    [tokens, size].
    """
    tokens, top_k = routing.experts.shape
    size = weight.shape[1]
    out = torch.empty((tokens, size), dtype=active.dtype, device=active.device)
    _token_down_kernel[(triton.cdiv(size, tiles.outputs), tokens)](
        active,
        weight,
        active if bias is None else bias,
        active if residual is None else residual,
        routing.experts,
        routing.weights,
        out,
        size,
        0 if residual is None else residual.stride(0),
        SIZE=active.shape[1],
        TOP_K=top_k,
        OUTPUTS=tiles.outputs,
        COLUMNS=tiles.columns,
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=tiles.num_warps,
        **launch_options(active),
    )
    return out


@triton.jit
def _token_gate_up_kernel(
    x,
    weight,
    bias,
    experts,
    out,
    x_stride,
    width,
    SIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    pair = tl.program_id(1)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.arange(0, COLUMNS)
    live = output < width
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    expert = tl.load(experts + pair).to(tl.int64)
    rows = expert * 2 * width + output
    place = weight + rows[:, None] * SIZE + column[None, :]
    up_place = place + width.to(tl.int64) * SIZE
    values_at = x + (pair // TOP_K).to(tl.int64) * x_stride + column
    mask = live[:, None] & (column < SIZE)[None, :]
    tile = tl.load(place, mask=mask, other=0.0, cache_modifier=".cg")
    up_tile = tl.load(up_place, mask=mask, other=0.0, cache_modifier=".cg")
    sums = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    up_sums = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    for start in range(0, SIZE, COLUMNS):
        at = start + column
        following = live[:, None] & (at + COLUMNS < SIZE)[None, :]
        next_tile = tl.load(place + start + COLUMNS, mask=following, other=0.0)
        next_up_tile = tl.load(up_place + start + COLUMNS, mask=following, other=0.0)
        values = tl.load(values_at + start, mask=at < SIZE, other=0.0).to(tl.float32)[None, :]
        sums += tile.to(tl.float32) * values
        up_sums += up_tile.to(tl.float32) * values
        tile = next_tile
        up_tile = next_up_tile
    gate = tl.sum(sums, 1)
    up = tl.sum(up_sums, 1)
    if HAS_BIAS:
        gate += tl.load(bias + rows, mask=live, other=0.0).to(tl.float32)
        up += tl.load(bias + rows + width, mask=live, other=0.0).to(tl.float32)
    result = gated(gate, up, ACTIVATION)
    tl.store(out + pair.to(tl.int64) * width + output, result.to(out.dtype.element_ty), mask=live)


@triton.jit
def _token_down_kernel(
    active,
    weight,
    bias,
    residual,
    experts,
    weights,
    out,
    num_outputs,
    residual_stride,
    SIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    OUTPUTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):
    STEPS: tl.constexpr = (SIZE + COLUMNS - 1) // COLUMNS
    token = tl.program_id(1).to(tl.int64)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    column = tl.arange(0, COLUMNS)
    live = output < num_outputs
    place = weight + output.to(tl.int64)[:, None] * SIZE + column[None, :]
    matrix = num_outputs.to(tl.int64) * SIZE
    # The kernel before waited for the routing, so the first expert's weights are loaded while that kernel still runs.
    first = tl.load(experts + token * TOP_K).to(tl.int64)
    mask = live[:, None] & (column < SIZE)[None, :]
    tile = tl.load(place + first * matrix, mask=mask, other=0.0, cache_modifier=".cg")
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    sums = tl.zeros((OUTPUTS, COLUMNS), tl.float32)
    for step in range(TOP_K * STEPS):
        rank = step // STEPS
        at = step % STEPS * COLUMNS + column
        pair = token * TOP_K + rank
        next_rank = (step + 1) // STEPS
        next_at = (step + 1) % STEPS * COLUMNS
        expert = tl.load(experts + token * TOP_K + tl.minimum(next_rank, TOP_K - 1)).to(tl.int64)
        following = live[:, None] & (next_at + column < SIZE)[None, :] & (next_rank < TOP_K)
        next_tile = tl.load(place + expert * matrix + next_at, mask=following, other=0.0)
        values = tl.load(active + pair * SIZE + at, mask=at < SIZE, other=0.0).to(tl.float32)
        values *= tl.load(weights + pair)
        sums += tile.to(tl.float32) * values[None, :]
        tile = next_tile
    result = tl.sum(sums, 1)
    if HAS_BIAS:
        for rank in range(TOP_K):
            pair = token * TOP_K + rank
            offset = tl.load(experts + pair).to(tl.int64) * num_outputs + output
            result += tl.load(weights + pair) * tl.load(bias + offset, mask=live, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        result += tl.load(residual + token * residual_stride + output, mask=live, other=0.0).to(tl.float32)
    tl.store(out + token * num_outputs + output, result.to(out.dtype.element_ty), mask=live)
