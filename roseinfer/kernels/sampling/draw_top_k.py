"""Draw a token from each row's top k, in one kernel that never sorts the vocabulary.

A row is split into parts, one program per part, and a part into groups of logits. The k-th largest of the groups'
maxima is at most the part's k-th largest logit, so all logits below it are dropped. Of random logits, little more than
k remain as candidates. (Selection by group maxima is the first step of Dr. Top-k, Gaihre et al., 2021.) The last
program to finish ranks the candidates of all parts with a bitonic top-k (Shanbhag, Pirk and Madden, 2018), tile by
tile, and draws.
"""

import torch
from torch import Tensor

from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.runtime import (
    MAX_ARRIVALS,
    arrivals,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    runs_triton,
    tl,
    triton,
)
from roseinfer.kernels.sampling.sort_keys import load_ranked, value_of
from roseinfer.kernels.sampling.uniform_kernel import uniform

MAX_TOP_K = 64
"""Maximum top-k. The kernel ranks this many candidates for every row, whatever its own top-k is."""
_GROUPS = 256
"""Groups per part, one thread each."""
_DEPTH = 16
"""Logits per group."""
_TILE = 1024
"""Candidates ranked at once: slightly more than remain of a vocabulary of 50,000."""


def draws_top_k(logits: Tensor, top_k: int) -> bool:
    """True if `draw_top_k` takes these logits [rows, size]; `top_k`: the rows' maximum, or 0 if a row has no limit."""
    return 0 < top_k <= MAX_TOP_K and logits.dim() == 2 and 2 * len(logits) <= MAX_ARRIVALS and runs_triton(logits)


def draw_top_k(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """Draw one index per row of logits: [rows, size] -> [rows], int64.

    The parameters are [rows] each. `top_k`, `seeds` and `positions` are int64, the others float32. A row with
    temperature 0 takes the index of its largest logit; the `top_k` of every other row is 1 to MAX_TOP_K. Calls must not
    overlap on several streams.

    The result equals that of `sampling.sampler.sample`, with the lower index first among equal logits and the number
    from `sampling.uniform`. They may differ only by rounding: if that number is at the edge between two tokens, or if
    top_p or min_p is at the edge of keeping a token.
    """
    rows, size = logits.shape
    parts = triton.cdiv(size, _GROUPS * _DEPTH)
    # If a group's maximum is dropped, so is the whole group: at most MAX_TOP_K groups per part remain. This upper bound
    # is as much memory as 16-bit logits take; little of it is ever written.
    capacity = parts * MAX_TOP_K * _DEPTH
    candidates = torch.empty((rows, capacity), dtype=torch.int64, device=logits.device)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    _draw_kernel[(parts, rows)](
        logits,
        temperature,
        top_k,
        top_p,
        min_p,
        seeds,
        positions,
        out,
        candidates,
        arrivals(logits.device),
        logits.stride(0),
        size,
        rows,
        capacity,
        parts,
        MAX_TOP_K=MAX_TOP_K,
        GROUPS=_GROUPS,
        DEPTH=_DEPTH,
        TILE=_TILE,
        num_warps=_GROUPS // 32,
        maxnreg=64,
        **launch_options(logits),
    )
    return out


@triton.jit
def _ranked_tile(candidates, start, count, MAX_TOP_K: tl.constexpr, TILE: tl.constexpr):
    """Return the MAX_TOP_K largest of up to TILE candidates from `start` on, in falling order."""
    place = start + tl.arange(0, TILE)
    keys = tl.load(candidates + place, mask=place < count, other=-0x7FFFFFFFFFFFFFFF, cache_modifier=".cg")
    return tl.topk(keys, MAX_TOP_K)


@triton.jit(do_not_specialize=["rows"])  # do not compile again for another batch size
def _draw_kernel(
    logits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    positions,
    out,
    candidates,
    arrived_parts,
    logits_stride,
    size,
    rows,
    capacity,
    parts,
    MAX_TOP_K: tl.constexpr,
    GROUPS: tl.constexpr,
    DEPTH: tl.constexpr,
    TILE: tl.constexpr,
    PDL: tl.constexpr,
):
    part = tl.program_id(0)
    row = tl.program_id(1)
    # Neighbouring logits go to different groups: equal logits, and those of similar tokens, tend to be neighbours.
    column = part * (GROUPS * DEPTH) + tl.arange(0, GROUPS)
    logits += row.to(tl.int64) * logits_stride
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    largest = tl.full((GROUPS,), -0x7FFFFFFFFFFFFFFF, tl.int64)
    for member in tl.static_range(DEPTH):
        largest = tl.maximum(largest, load_ranked(logits, column + member * GROUPS, size))
    # Above the key of columns past the end, which the row's last part may contain.
    least = tl.maximum(tl.min(tl.topk(largest, MAX_TOP_K), 0), -0x7FFFFFFFFFFFFFFE)

    # Load the logits again, a few at once, while they are still cached. If each program held its logits in registers,
    # only half as many programs would fit on a multiprocessor.
    taken = tl.zeros((GROUPS,), tl.int32)
    for member in tl.range(DEPTH, loop_unroll_factor=4):
        taken += (load_ranked(logits, column + member * GROUPS, size) >= least).to(tl.int32)
    counter = arrived_parts + rows + row
    start = tl.atomic_add(counter, tl.sum(taken, 0), sem="relaxed", scope="gpu")
    candidates += row.to(tl.int64) * capacity
    place = candidates + start + tl.cumsum(taken, 0) - taken
    for member in tl.range(DEPTH, loop_unroll_factor=4):
        key = load_ranked(logits, column + member * GROUPS, size)
        tl.store(place, key, mask=key >= least)
        place += (key >= least).to(tl.int32)
    if is_last(arrived_parts + row, parts):
        count = tl.load(counter, cache_modifier=".cg")
        best = _ranked_tile(candidates, 0, count, MAX_TOP_K, TILE)
        for at in range(TILE, count, TILE):
            more = _ranked_tile(candidates, at, count, MAX_TOP_K, TILE)
            best = tl.topk(tl.reshape(tl.join(best, more), (2 * MAX_TOP_K,)), MAX_TOP_K)
        tl.debug_barrier()  # every thread has read the count
        tl.store(counter, 0)

        rank = tl.arange(0, MAX_TOP_K)
        ids = 0x7FFFFFFF - (best & 0x7FFFFFFF)
        ranked = value_of((best >> 32).to(tl.int32), tl.float32)
        temperature = tl.load(temperatures + row)
        divisor = tl.where(temperature > 0, temperature, 1.0)
        top_p = tl.load(top_ps + row)
        top_p = tl.where(top_p >= 1, float("inf"), top_p)
        present = (rank < tl.load(top_ks + row)) & (rank < size)
        # The rest computes the same as `sampling.sampler.kept_probabilities` and `sample`.
        peak = tl.max(tl.where(rank == 0, ranked, float("-inf")), 0)
        weights = tl.where(present, tl.exp(tl.div_rn(ranked - peak, divisor)), 0.0)
        probabilities = weights / tl.sum(weights, 0)
        before = tl.cumsum(probabilities, 0) - probabilities
        nucleus = (before < top_p) | (rank == 0)
        nucleus &= probabilities >= tl.load(min_ps + row) * tl.max(probabilities, 0)
        probabilities = tl.where(nucleus, probabilities, 0.0)
        edges = tl.cumsum(probabilities, 0)
        threshold = uniform(tl.load(seeds + row), tl.load(positions + row)) * tl.sum(
            tl.where(rank == MAX_TOP_K - 1, edges, 0.0), 0
        )
        choice = tl.sum((edges <= threshold).to(tl.int32), 0)
        choice = tl.minimum(choice, tl.sum((probabilities > 0).to(tl.int32), 0) - 1)
        choice = tl.where(temperature > 0, tl.maximum(choice, 0), 0)
        tl.store(out + row, tl.sum(tl.where(rank == choice, ids, 0), 0))
