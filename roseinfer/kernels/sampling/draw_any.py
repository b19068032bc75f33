"""Draw a token by temperature, top-k, top-p and min-p, without sorting the vocabulary.

In principle, tokens are sorted by falling logit, and a uniform number picks a point in their cumulative weight. A radix
select (Alabi et al., 2012), over weights instead of counts, finds that point without sorting. Each pass splits the
current range of logits at sixteen edges and sums the weight at or above each edge. The highest edge with more weight
than the point starts the next range, a sixteenth as wide. Logits of 16 bits take four passes, logits of 32 bits eight.
Top-k and top-p limits are found by the same search: over counts for top-k, over weights for top-p.

Each pass is one launch. A row is split into parts, one program per part, and the last program to finish adds up the
parts' sums. The order of addition is fixed: a range has the same sum in every pass, so the search never ends in an
empty one.
"""

from typing import Any

import torch
from torch import Tensor

from roseinfer.kernels.arrival import is_last
from roseinfer.kernels.runtime import (
    MAX_ARRIVALS,
    arrivals,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    runs_triton,
    tl,
    triton,
)
from roseinfer.kernels.sampling.sort_keys import key_of, value_of
from roseinfer.kernels.sampling.uniform_kernel import uniform

_PART = 4096
"""Logits per part, that is, per program."""
_TILE = 1024
"""Logits of a part that are loaded and summed at once."""
_MAX_PARTS = 256
"""Maximum parts per row: one program adds up their sums."""


def draws_any(logits: Tensor) -> bool:
    """True if `draw_any` takes these logits [rows, size]."""
    return (
        logits.dim() == 2
        and len(logits) < MAX_ARRIVALS
        and logits.shape[1] <= _PART * _MAX_PARTS
        and runs_triton(logits)
    )


def draw_any(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """Draw one index per row of logits: [rows, size] -> [rows], int64.

    The parameters are [rows] each. `top_k` (0 for no limit), `seeds` and `positions` are int64, the others float32. A
    row with temperature 0 takes the index of its largest logit. Calls must not overlap on several streams.

    The result equals that of `sampling.sampler.sample`, with the lower index first among equal logits and the number
    from `sampling.uniform`. They may differ only by rounding: if that number is at the edge between two tokens, or if
    top_p or min_p is at the edge of keeping a token. For a row with NaN, or with only -inf, any index is returned.
    """
    rows, size = logits.shape
    parts = triton.cdiv(size, _PART)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    partials = torch.empty((rows, parts, 16), dtype=torch.float32, device=logits.device)
    stride = -(-rows // 4) * 4  # the same alignment for any number of rows, so that kernels compile once
    peaks, keys, last_keys, ties = torch.empty((4, stride), dtype=torch.int32, device=logits.device)
    befores, aboves, kept, wholes = torch.empty((4, stride), dtype=torch.float32, device=logits.device)
    state = (peaks, keys, last_keys, ties, befores, aboves, kept, wholes, partials, arrivals(logits.device))
    options: dict[str, Any] = {"PARTS": parts, "PARTS_PADDED": next_power_of_two(parts), "PART": _PART}
    options |= {"num_warps": 8, **launch_options(logits)}
    grid, bits = (parts, rows), 8 * logits.element_size()
    digits = range(bits - 4, -1, -4)
    _peak_kernel[grid](logits, peaks, last_keys, ties, kept, wholes, *state[-2:], logits.stride(0), size, **options)
    for goal, shifts in (("top_k", digits), ("weigh", range(1)), ("top_p", digits), ("draw", digits)):
        for shift in shifts:
            _narrow_kernel[grid](
                logits,
                temperature,
                top_k,
                top_p,
                min_p,
                seeds,
                positions,
                *state,
                logits.stride(0),
                size,
                shift,
                BITS=bits,
                TILE=_TILE,
                GOAL=goal,
                **options,
            )
    _pick_kernel[grid](logits, temperature, out, peaks, keys, ties, *state[-2:], logits.stride(0), size, **options)
    return out


@triton.jit
def _weight_of(value, peak, temperature):
    """Return a token's unnormalized probability, computed as in `sampling.sampler.kept_probabilities`."""
    return tl.exp(tl.div_rn(value - peak, temperature))


@triton.jit
def _peak_kernel(
    logits,
    peaks,
    last_keys,
    ties,
    kept,
    wholes,
    partials,
    arrived_parts,
    logits_stride,
    size,
    PARTS: tl.constexpr,
    PARTS_PADDED: tl.constexpr,
    PART: tl.constexpr,
    PDL: tl.constexpr,
):
    """Find the key of each row's largest logit, and initialize the row's limits to keep everything."""
    part = tl.program_id(0)
    row = tl.program_id(1)
    column = part * PART + tl.arange(0, PART)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    values = tl.load(logits + row.to(tl.int64) * logits_stride + column, mask=column < size, other=float("-inf"))
    own = partials.to(tl.pointer_type(tl.int32)) + row * PARTS * 16
    tl.store(own + part, tl.max(key_of(values), 0))
    if is_last(arrived_parts + row, PARTS):
        other = tl.arange(0, PARTS_PADDED)
        found = tl.load(own + other, mask=other < PARTS, other=-0x80000000, cache_modifier=".cg")
        tl.store(peaks + row, tl.max(found, 0))
        tl.store(last_keys + row, -0x80000000)
        tl.store(ties + row, 0)
        tl.store(kept + row, float("inf"))
        tl.store(wholes + row, float("inf"))


@triton.jit(do_not_specialize=["shift"])  # one kernel for all passes of a search
def _narrow_kernel(
    logits,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    positions,
    peaks,
    keys,
    last_keys,
    ties,
    befores,
    aboves,
    kept,
    wholes,
    partials,
    arrived_parts,
    logits_stride,
    size,
    shift,
    PARTS: tl.constexpr,
    PARTS_PADDED: tl.constexpr,
    PART: tl.constexpr,
    BITS: tl.constexpr,
    TILE: tl.constexpr,
    GOAL: tl.constexpr,
    PDL: tl.constexpr,
):
    """Run one pass of a search: narrow its range of 16 << shift keys, which starts at `keys`, to a sixteenth of it.

    State per row, where "before" means at a higher rank:
    - `befores`: weight (top-k: count) of all tokens before the point that is searched for;
    - `aboves`: weight or count of the tokens above the range;
    - `wholes`, `kept`: total weight after top-k, and after top-k and top-p;
    - `last_keys`: key of the last token that is kept;
    - `ties`: number of tokens with that key that are kept; after the "draw" search, number of tokens with the drawn
      token's key that come before it.

    Goal "weigh" is no search: it adds up the weight of the tokens that top-k keeps.
    """
    part = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    temperature = tl.load(temperatures + row)
    top_k = tl.minimum(tl.load(top_ks + row), size).to(tl.int32)  # any int64, limited to size
    top_p = tl.load(top_ps + row)
    wanted = temperature > 0
    if GOAL == "top_k" or GOAL == "weigh":
        wanted &= (top_k > 0) & (top_k < size)
    if GOAL == "top_p":
        wanted &= top_p < 1
    if not wanted:
        return

    is_first = shift == BITS - 4
    low = tl.load(keys + row)
    if GOAL == "weigh":
        low += 1
    else:
        low = tl.where(is_first, -(1 << (BITS - 1)), low)
    peak = value_of(tl.load(peaks + row), logits.dtype.element_ty)
    min_p = tl.load(min_ps + row)
    cut = tl.arange(0, 16)
    edges = low + (cut << shift)
    sums = tl.zeros((16, TILE), tl.float32)
    row_logits = logits + row.to(tl.int64) * logits_stride
    for start in tl.static_range(0, PART, TILE):
        column = part * PART + start + tl.arange(0, TILE)
        values = tl.load(row_logits + column, mask=column < size, other=float("-inf"))
        weight = tl.full((TILE,), 1.0, tl.float32)
        if GOAL != "top_k":
            weight = _weight_of(values.to(tl.float32), peak, temperature)
        if GOAL == "draw":
            weight = tl.where(weight >= min_p, weight, 0.0)
        weight = tl.where(column < size, weight, 0.0)
        sums += tl.where(key_of(values)[None, :] >= edges[:, None], weight[None, :], 0.0)
    own = partials + row * PARTS * 16
    tl.store(own + part * 16 + cut, tl.sum(sums, 1))
    if is_last(arrived_parts + row, PARTS):
        other = tl.arange(0, PARTS_PADDED)
        places = own + other[:, None] * 16 + cut[None, :]
        reaching = tl.sum(tl.load(places, mask=(other < PARTS)[:, None], other=0.0, cache_modifier=".cg"), 0)
        everything = tl.sum(tl.where(cut == 0, reaching, 0.0), 0)
        if GOAL == "weigh":
            each = _weight_of(value_of(low - 1, logits.dtype.element_ty), peak, temperature)
            whole = everything + tl.load(ties + row).to(tl.float32) * each
            tl.store(kept + row, whole)
            tl.store(wholes + row, whole)
            return
        if GOAL == "top_k":
            before = (top_k - 1).to(tl.float32)
        elif GOAL == "top_p":
            whole = tl.minimum(tl.load(wholes + row), everything)
            before = tl.minimum(top_p * whole, _just_below(whole))
        else:
            whole = tl.minimum(tl.load(kept + row), everything)
            before = tl.minimum(uniform(tl.load(seeds + row), tl.load(positions + row)) * whole, _just_below(whole))
        before = tl.where(is_first, before, tl.load(befores + row))
        chosen = tl.maximum(tl.sum((reaching > before).to(tl.int32), 0) - 1, 0)
        above = tl.where(is_first, 0.0, tl.load(aboves + row))
        above = tl.where(chosen == 15, above, tl.sum(tl.where(cut == chosen + 1, reaching, 0.0), 0))
        key = low + (chosen << shift)
        tl.store(befores + row, before)
        tl.store(aboves + row, above)
        tl.store(keys + row, key)
        if shift == 0:
            # Tokens with this key have equal weights: count how many of them come before the point.
            each = _weight_of(value_of(key, logits.dtype.element_ty), peak, temperature)
            alike = (before - above) / tl.where(each > 0, each, 1.0)
            last_key = tl.load(last_keys + row)
            last_ties = tl.load(ties + row)
            if GOAL == "top_k":
                tl.store(last_keys + row, key)
                tl.store(ties + row, top_k - above.to(tl.int32))
            elif GOAL == "top_p":
                # The best token is always kept, however small top-p is.
                reached = tl.where(above == 0, tl.maximum(tl.ceil(alike), 1.0), tl.ceil(alike))
                whole = above + reached * each
                if whole < tl.load(kept + row):
                    tl.store(kept + row, whole)
                    tl.store(last_keys + row, key)
                    tl.store(ties + row, reached.to(tl.int32))
            else:
                # If rounding leads past the last token that is kept, draw that token.
                place = tl.floor(alike).to(tl.int32)
                place = tl.where(key < last_key, last_ties - 1, place)
                place = tl.where(key == last_key, tl.minimum(place, last_ties - 1), place)
                tl.store(keys + row, tl.maximum(key, last_key))
                tl.store(ties + row, tl.maximum(place, 0))


@triton.jit
def _pick_kernel(
    logits,
    temperatures,
    out,
    peaks,
    keys,
    ties,
    partials,
    arrived_parts,
    logits_stride,
    size,
    PARTS: tl.constexpr,
    PARTS_PADDED: tl.constexpr,
    PART: tl.constexpr,
    PDL: tl.constexpr,
):
    """Find the drawn token's index: among the tokens with the row's key, the one with `ties` others before it."""
    part = tl.program_id(0)
    row = tl.program_id(1)
    column = tl.arange(0, PART)
    row_logits = logits + row.to(tl.int64) * logits_stride
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    is_drawn = tl.load(temperatures + row) > 0
    key = tl.where(is_drawn, tl.load(keys + row), tl.load(peaks + row))
    values = tl.load(row_logits + part * PART + column, mask=part * PART + column < size, other=float("-inf"))
    alike = (key_of(values) == key) & (part * PART + column < size)
    own = partials.to(tl.pointer_type(tl.int32)) + row * PARTS * 16
    tl.store(own + part, tl.sum(alike.to(tl.int32), 0))
    if is_last(arrived_parts + row, PARTS):
        other = tl.arange(0, PARTS_PADDED)
        counts = tl.load(own + other, mask=other < PARTS, other=0, cache_modifier=".cg")
        place = tl.where(is_drawn, tl.load(ties + row), 0)
        place = tl.minimum(place, tl.sum(counts, 0) - 1)
        passed = tl.cumsum(counts, 0) <= place
        place -= tl.sum(tl.where(passed, counts, 0), 0)
        start = tl.sum(passed.to(tl.int32), 0) * PART
        values = tl.load(row_logits + start + column, mask=start + column < size, other=float("-inf"))
        alike = (key_of(values) == key) & (start + column < size)
        found = alike & (tl.cumsum(alike.to(tl.int32), 0) == place + 1)
        tl.store(out + row, (start + tl.sum(tl.where(found, column, 0), 0)).to(tl.int64))


@triton.jit
def _just_below(number):
    """Return a number slightly less than a sum, so that the search always finds a token after it."""
    return number * (1 - 2.4e-7)
