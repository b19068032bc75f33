"""The rows of a step sorted by expert, so that the rows of one expert are multiplied together."""

from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.kernels.runtime import (
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)

_BLOCK = 1024
_LARGE_BLOCK = 4096


class ExpertOrder(NamedTuple):
    """Pairs of a token and one of its experts, sorted by expert and then by token. Pair i is of token i // top_k."""

    pairs: Tensor
    """Numbers of the pairs in order, [tokens * top_k], int32."""
    starts: Tensor
    """First place of each expert's pairs, and the number of pairs, [experts + 1], int32."""


def order_by_expert(experts: Tensor, num_experts: int) -> ExpertOrder:
    """Return the order of the pairs in `experts`, [tokens, top_k], int32. No step of it waits for the device."""
    order = order_by_expert_triton if runs_triton_order(experts) else order_by_expert_reference
    return order(experts, num_experts)


def order_by_expert_reference(experts: Tensor, num_experts: int) -> ExpertOrder:
    """Compute `order_by_expert` with torch operations."""
    chosen, pairs = torch.sort(experts.flatten(), stable=True)
    bounds = torch.arange(num_experts + 1, dtype=chosen.dtype, device=chosen.device)
    return ExpertOrder(pairs.to(torch.int32), torch.searchsorted(chosen, bounds, out_int32=True))


def order_by_expert_triton(experts: Tensor, num_experts: int) -> ExpertOrder:
    """Compute `order_by_expert` in one Triton kernel: a program per expert counts the pairs of those before it."""
    num_pairs = experts.numel()
    pairs = torch.empty(num_pairs, dtype=torch.int32, device=experts.device)
    starts = torch.empty(num_experts + 1, dtype=torch.int32, device=experts.device)
    block = _BLOCK if num_pairs <= 4 * _BLOCK else _LARGE_BLOCK
    block = min(block, max(32, next_power_of_two(num_pairs)))
    _order_kernel[(num_experts,)](
        experts,
        pairs,
        starts,
        num_pairs,
        num_experts,
        BLOCK=block,
        num_warps=4 if block <= _BLOCK else 8,
        **launch_options(experts),
    )
    return ExpertOrder(pairs, starts)


def runs_triton_order(experts: Tensor) -> bool:
    """True if the kernel can run: on a GPU, with at least one pair."""
    return experts.is_cuda and experts.numel() > 0 and runs_triton()


@triton.jit(do_not_specialize=["num_pairs"])
def _order_kernel(experts, pairs, starts, num_pairs, num_experts, BLOCK: tl.constexpr, PDL: tl.constexpr):
    own = tl.program_id(0)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    lower = tl.zeros((BLOCK,), tl.int32)
    for begin in range(0, num_pairs, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        expert = tl.load(experts + pair, mask=pair < num_pairs, other=num_experts)
        lower += (expert < own).to(tl.int32)
    place = tl.sum(lower, 0)
    tl.store(starts + own, place)
    if own == 0:
        tl.store(starts + num_experts, num_pairs)
    for begin in range(0, num_pairs, BLOCK):
        pair = begin + tl.arange(0, BLOCK)
        expert = tl.load(experts + pair, mask=pair < num_pairs, other=num_experts)
        is_own = (expert == own).to(tl.int32)
        rank = tl.cumsum(is_own, 0)
        tl.store(pairs + place + rank - 1, pair, mask=is_own != 0)
        place += tl.sum(is_own, 0)
