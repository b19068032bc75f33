"""Bounds of attention scores, and sinks: parts of attention weights that are no keys.

The bound is c * tanh(score / c), as in Gemma 2 (https://arxiv.org/abs/2408.00118). A sink is a score without a value
(gpt-oss, https://arxiv.org/abs/2508.10925).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from roseinfer.kernels.attention.attention_spec import Scoring
from roseinfer.kernels.runtime import tl, triton


class ScoreFactors(NamedTuple):
    """Factors of a kernel whose softmax is in powers of two, for scores with a bound and without."""

    before: float
    """Factor on the products of queries and keys before tanh. Not used without a bound."""
    after: float
    """Factor on the result of tanh; without a bound, on the products. Includes log2(e)."""


def score_factors(scoring: Scoring, head_dim: int) -> ScoreFactors:
    """Return the factors for heads of this size."""
    scale = scoring.scale_for(head_dim)
    if scoring.softcap is None:
        return ScoreFactors(1.0, scale * math.log2(math.e))
    return ScoreFactors(scale / scoring.softcap, scoring.softcap * math.log2(math.e))


def bounded(scores: Tensor, softcap: float | None) -> Tensor:
    """Return softcap * tanh(scores / softcap), or the scores if there is no bound."""
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def share_of_keys(log_sum: Tensor, sinks: Tensor) -> Tensor:
    """Return the share of the keys in a softmax with sinks.

    `log_sum` is the logarithm of the sum of exponentials of the keys' scores; the sinks broadcast to it.
    """
    return torch.sigmoid(log_sum - sinks.to(log_sum.dtype))


@triton.jit
def with_sinks(sinks, present, peak, total, summed):
    """Add each row's sink to a running softmax in powers of two.

    sinks: pointers to the sinks of the rows, of which `present` are read. Returns (peak, total, summed).
    """
    sink = tl.load(sinks, mask=present, other=float("-inf")) * 1.4426950408889634  # log2(e)
    highest = tl.maximum(peak, sink)
    kept = tl.exp2(peak - highest)
    return highest, total * kept + tl.exp2(sink - highest), summed * kept[:, None]


@triton.jit
def hyperbolic_tangent(x):
    """Return tanh(x), within 2e-7, in float32."""
    power = tl.exp2(tl.abs(x) * -2.8853900817779268)  # -2 log2(e)
    size = (1.0 - power) / (1.0 + power)
    return tl.where(x < 0, -size, size)
