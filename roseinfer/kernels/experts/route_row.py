"""Routing of one row after its norm, in one Triton kernel: a decode step of one request has no time for two.

Every program normalizes the whole row, which is short, and scores some columns. The last program to finish adds the
scores in order and chooses the experts (see `arrival.is_last`).
"""

import torch
from torch import Tensor

from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.experts.top_experts import expert_of, score_of, sort_keys
from roseinfer.kernels.norms import Norm
from roseinfer.kernels.runtime import (
    arrivals,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    tl,
    triton,
)

_SPLITS = 16
_TILE_ELEMENTS = 1 << 15
"""Maximum elements of the router's weight that a program holds in registers."""
_MAX_SIZE = 1 << 14
"""Maximum elements of a row, which every program holds."""


def takes_row(rows: int, size: int, num_experts: int, norm: Norm) -> bool:
    """True if the kernel supports this shape: one row, and an RMS norm without a bias."""
    columns = next_power_of_two(triton.cdiv(size, _SPLITS))
    fits = size <= _MAX_SIZE and columns * next_power_of_two(num_experts) <= _TILE_ELEMENTS
    return rows == 1 and fits and not norm.centered and norm.bias is None


def route_row(
    x: Tensor, residual: Tensor | None, norm: Norm, weight: Tensor, bias: Tensor | None, top_k: int, *, normalized: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (norm of x + residual, x + residual, experts, weights of the experts), as `route` describes the last two.

    x and residual [1, size]; weight [experts, size]. If residual is None, the sum is x. The sum, and the norm that is
    scored, are rounded to x's dtype.
    """
    size, num_experts = x.shape[1], len(weight)
    columns = max(16, next_power_of_two(triton.cdiv(size, _SPLITS)))
    splits = triton.cdiv(size, columns)
    padded = max(16, next_power_of_two(num_experts))
    normed = torch.empty_like(x)
    total = x if residual is None else torch.empty_like(x)
    experts = torch.empty((1, top_k), dtype=torch.int32, device=x.device)
    weights = torch.empty((1, top_k), dtype=torch.float32, device=x.device)
    partials = torch.empty((splits, padded), dtype=torch.float32, device=x.device)
    _route_row_kernel[(splits,)](
        x,
        x if residual is None else residual,
        norm.weight,
        weight,
        x if bias is None else bias,
        normed,
        total,
        experts,
        weights,
        partials,
        arrivals(x.device),
        norm.eps,
        num_experts,
        weight.stride(0),
        SIZE=size,
        PADDED=next_power_of_two(size),
        COLUMNS=columns,
        SPLITS=splits,
        PADDED_SPLITS=next_power_of_two(splits),
        EXPERTS=padded,
        TOP_K=top_k,
        PADDED_TOP_K=next_power_of_two(top_k),
        NORMALIZED=normalized,
        HAS_RESIDUAL=residual is not None,
        HAS_BIAS=bias is not None,
        num_warps=4 if columns * padded <= _TILE_ELEMENTS // 2 else 8,
        **launch_options(x),
    )
    return normed, total, experts, weights


@triton.jit
def _route_row_kernel(
    x,
    residual,
    norm_weight,
    weight,
    bias,
    normed,
    total,
    experts,
    weights,
    partials,
    arrived_splits,
    eps,
    num_experts,
    weight_stride,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
    PADDED_SPLITS: tl.constexpr,
    EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_TOP_K: tl.constexpr,
    NORMALIZED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PDL: tl.constexpr,
):
    split = tl.program_id(0)
    expert = tl.arange(0, EXPERTS)
    column = split * COLUMNS + tl.arange(0, COLUMNS)
    own = column < SIZE
    known = expert < num_experts
    place = weight + expert[:, None] * weight_stride + column[None, :]
    tile = tl.load(place, mask=known[:, None] & own[None, :], other=0.0)
    gain = tl.load(norm_weight + column, mask=own, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()

    every = tl.arange(0, PADDED)
    inside = every < SIZE
    row = tl.load(x + every, mask=inside, other=0.0).to(tl.float32)
    values = tl.load(x + column, mask=own, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        row += tl.load(residual + every, mask=inside, other=0.0).to(tl.float32)
        row = row.to(x.dtype.element_ty).to(tl.float32)
        values += tl.load(residual + column, mask=own, other=0.0).to(tl.float32)
        rounded = values.to(x.dtype.element_ty)
        tl.store(total + column, rounded, mask=own)
        values = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(row * row, 0) / SIZE + eps)
    value = (values * scale * gain).to(x.dtype.element_ty)
    tl.store(normed + column, value, mask=own)
    partial = tl.sum(tile.to(tl.float32) * value.to(tl.float32)[None, :], 1)

    tl.store(partials + split * EXPERTS + expert, partial)
    if not is_last(arrived_splits, SPLITS):
        return
    each = tl.arange(0, PADDED_SPLITS)
    parts = tl.load(
        partials + each[:, None] * EXPERTS + expert[None, :],
        mask=(each < SPLITS)[:, None],
        other=0.0,
        cache_modifier=".cg",
    )
    scores = tl.sum(parts, 0)
    if HAS_BIAS:
        scores += tl.load(bias + expert, mask=known, other=0.0).to(tl.float32)
    scores = tl.where(known, scores, float("-inf"))
    keys = sort_keys(scores, expert)
    rank = tl.arange(0, PADDED_TOP_K)
    chosen = tl.full((PADDED_TOP_K,), -0x8000000000000000, tl.int64)
    for at in tl.static_range(TOP_K):
        best = tl.max(keys, 0)
        chosen = tl.where(rank == at, best, chosen)
        keys = tl.where(keys == best, -0x8000000000000000, keys)
    highest = tl.max(scores, 0)
    powers = tl.where(rank < TOP_K, tl.exp(score_of(chosen) - highest), 0.0)
    whole = tl.sum(powers, 0) if NORMALIZED else tl.sum(tl.exp(scores - highest), 0)
    tl.store(experts + rank, expert_of(chosen), mask=rank < TOP_K)
    tl.store(weights + rank, powers / whole, mask=rank < TOP_K)
