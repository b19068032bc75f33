"""Routing in one Triton kernel: scores, choice of experts and weights.

The columns of the router's weight are split over a fixed number of programs, and the last program to finish adds the
splits in order (see `arrival.is_last`). Neither the number of splits nor the tile depends on the number of tokens, so a
token's scores do not depend on the other tokens of the step.
"""

import torch
from torch import Tensor

from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.experts.top_experts import expert_of, score_of, sort_keys
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

_ROWS = 16
_SPLITS = 16
_TILE_ELEMENTS = 16384
"""Maximum elements of the router's weight per iteration, which a program holds in registers."""
MAX_ROUTED_EXPERTS = 1024
"""Maximum experts of the kernel."""


def route_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, top_k: int, *, normalized: bool
) -> tuple[Tensor, Tensor]:
    """Return the experts [tokens, top_k] in int32, and their weights in float32, as `route` describes them."""
    tokens, size = x.shape
    num_experts = len(weight)
    padded = max(16, next_power_of_two(num_experts))
    columns = max(16, min(128, _TILE_ELEMENTS // padded))
    split_size = triton.cdiv(triton.cdiv(size, columns), _SPLITS) * columns
    splits = triton.cdiv(size, split_size)
    tiles = triton.cdiv(tokens, _ROWS)
    assert tiles <= MAX_ARRIVALS
    experts = torch.empty((tokens, top_k), dtype=torch.int32, device=x.device)
    weights = torch.empty((tokens, top_k), dtype=torch.float32, device=x.device)
    partials = torch.empty((tiles, splits, _ROWS, padded), dtype=torch.float32, device=x.device)
    _route_kernel[(tiles, splits)](
        x,
        weight,
        x if bias is None else bias,
        experts,
        weights,
        partials,
        arrivals(x.device),
        tokens,
        num_experts,
        x.stride(0),
        weight.stride(0),
        SIZE=size,
        SPLIT_SIZE=split_size,
        SPLITS=splits,
        ROWS=_ROWS,
        EXPERTS=padded,
        COLUMNS=columns,
        TOP_K=top_k,
        PADDED_TOP_K=next_power_of_two(top_k),
        NORMALIZED=normalized,
        HAS_BIAS=bias is not None,
        num_warps=4,
        **launch_options(x),
    )
    return experts, weights


@triton.jit(do_not_specialize=["num_tokens"])
def _route_kernel(
    x,
    weight,
    bias,
    experts,
    weights,
    partials,
    arrived_splits,
    num_tokens,
    num_experts,
    x_stride,
    weight_stride,
    SIZE: tl.constexpr,
    SPLIT_SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    EXPERTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_TOP_K: tl.constexpr,
    NORMALIZED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    tile = tl.program_id(0)
    split = tl.program_id(1)
    row = tile * ROWS + tl.arange(0, ROWS)
    expert = tl.arange(0, EXPERTS)
    column = split * SPLIT_SIZE + tl.arange(0, COLUMNS)
    known = (expert < num_experts)[:, None]
    weight_rows = weight + expert[:, None] * weight_stride
    tile_weights = tl.load(weight_rows + column[None, :], mask=known & (column < SIZE)[None, :], other=0.0)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()

    x_rows = x + row.to(tl.int64)[:, None] * x_stride
    present = (row < num_tokens)[:, None]
    scores = tl.zeros((ROWS, EXPERTS), tl.float32)
    for start in range(0, SPLIT_SIZE, COLUMNS):
        at = column + start
        values = tl.load(x_rows + at[None, :], mask=present & (at < SIZE)[None, :], other=0.0)
        following = at + COLUMNS
        inside = (start + COLUMNS < SPLIT_SIZE) & (following < SIZE)
        next_weights = tl.load(weight_rows + following[None, :], mask=known & inside[None, :], other=0.0)
        scores = tl.dot(values, tl.trans(tile_weights), scores, input_precision="ieee")
        tile_weights = next_weights

    within = tl.arange(0, ROWS)[:, None] * EXPERTS + expert[None, :]
    if SPLITS > 1:
        first = partials + tile.to(tl.int64) * (SPLITS * ROWS * EXPERTS) + within
        tl.store(first + split * (ROWS * EXPERTS), scores)
        if not is_last(arrived_splits + tile, SPLITS):
            return
        scores = tl.load(first, cache_modifier=".cg")
        for other in tl.static_range(1, SPLITS):  # unrolled, so that the loads do not wait for each other
            scores += tl.load(first + other * (ROWS * EXPERTS), cache_modifier=".cg")
    if HAS_BIAS:
        scores += tl.load(bias + expert, mask=expert < num_experts, other=0.0).to(tl.float32)[None, :]

    scores = tl.where((expert < num_experts)[None, :], scores, float("-inf"))
    keys = sort_keys(scores, expert[None, :])
    place = tl.arange(0, PADDED_TOP_K)
    chosen = tl.full((ROWS, PADDED_TOP_K), -0x8000000000000000, tl.int64)
    for rank in tl.static_range(TOP_K):
        best = tl.max(keys, 1)[:, None]
        chosen = tl.where((place == rank)[None, :], best, chosen)
        keys = tl.where(keys == best, -0x8000000000000000, keys)
    highest = tl.max(scores, 1)[:, None]
    powers = tl.where((place < TOP_K)[None, :], tl.exp(score_of(chosen) - highest), 0.0)
    total = tl.sum(powers, 1) if NORMALIZED else tl.sum(tl.exp(scores - highest), 1)
    to = row.to(tl.int64)[:, None] * TOP_K + place[None, :]
    mask = present & (place < TOP_K)[None, :]
    tl.store(experts + to, expert_of(chosen), mask=mask)
    tl.store(weights + to, powers / total[:, None], mask=mask)
