"""Rotary position embedding (Su et al., 2021, https://arxiv.org/abs/2104.09864) and its scalings to longer contexts.

Each pair (x[i], x[i + head_dim / 2]) of a query or key is rotated by position x frequency[i]. The scalings change the
frequencies; YaRN and LongRoPE also multiply the result by a factor.

A token's rotation depends on its position only. Results therefore depend neither on the batch nor on the chunks of a
prompt, and requests can share cached blocks. Dynamic scaling is defined differently in transformers: the base follows
the length of the current sequence, so a token is rotated differently in a whole prefill, in a chunk and in decode.
roseinfer uses one length for all: the longest request that the engine is built for (`--max-model-len`). By default this
is the context that the model was trained for, where nothing is scaled and results equal those of transformers. With a
longer one, they equal those of transformers for a sequence of exactly that length. LongRoPE is treated alike: its list
of divisors follows the current sequence in transformers, and the longest request here, as in vLLM.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roseinfer.errors import ModelError
from roseinfer.kernels.attention.attention_spec import (
    DivisorScaling,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)


def inverse_frequencies(rope: Rope, head_dim: int, context: int) -> Tensor:
    """Return the radians by which each pair rotates per position: [rotary_dim / 2], float32.

    `context` is the length of the longest request, which dynamic scaling and LongRoPE depend on.
    """
    head_dim = rope.rotary_dim or head_dim
    match rope.scaling:
        case None:
            return _unscaled(rope.theta, head_dim)
        case LinearScaling():
            return _unscaled(rope.theta, head_dim) / rope.scaling.factor
        case DynamicScaling():
            return _dynamic(rope.theta, head_dim, rope.scaling, context)
        case YarnScaling():
            return _yarn(rope.theta, head_dim, rope.scaling)
        case Llama3Scaling():
            return _llama3(rope.theta, head_dim, rope.scaling)
        case DivisorScaling():
            return _divided(rope.theta, head_dim, rope.scaling.divisors)
        case LongRopeScaling():
            is_long = context > rope.scaling.original_context
            divisors = rope.scaling.long_divisors if is_long else rope.scaling.short_divisors
            return _divided(rope.theta, head_dim, divisors)


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """Return YaRN's factor on queries and keys, sqrt(1/t), for contexts extended by `factor` (the paper's equation 22).

    `weight` multiplies the logarithm: `mscale` or `mscale_all_dim` in a config.json.
    """
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


class RotaryEmbedding(nn.Module):
    """The rotations of all positions, in half-split layout (rotate_half in GPT-NeoX).

    Angles are computed in float32 for every model dtype: bfloat16 cannot represent neighboring large positions.
    """

    def __init__(self, rope: Rope, head_dim: int, max_positions: int) -> None:
        super().__init__()
        if torch.get_default_device().type == "meta":  # torch's arange would import its compiler, which takes seconds
            table = torch.empty(max_positions, head_dim)
        else:
            table = _table(rope, head_dim, max_positions)
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)
        self.table: Tensor
        """Cosines, then sines per position: [max_positions, head_dim]."""


def _table(rope: Rope, head_dim: int, max_positions: int) -> Tensor:
    """Return cosines, then sines: [max_positions, head_dim]."""
    frequencies = inverse_frequencies(rope, head_dim, max_positions)
    if not frequencies.isfinite().all():
        raise ModelError("the model's RoPE parameters give rotations that are not finite")
    angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequencies)
    cosines, sines = angles.cos(), angles.sin()
    if isinstance(rope.scaling, YarnScaling | LongRopeScaling):
        cosines, sines = cosines * rope.scaling.attention_factor, sines * rope.scaling.attention_factor
    unrotated = head_dim // 2 - angles.shape[1]  # pairs that keep their values
    cosines, sines = F.pad(cosines, (0, unrotated), value=1.0), F.pad(sines, (0, unrotated))
    return torch.cat((cosines, sines), dim=-1)


def _unscaled(theta: float, head_dim: int) -> Tensor:
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def _divided(theta: float, head_dim: int, divisors: tuple[float, ...]) -> Tensor:
    return _unscaled(theta, head_dim) / torch.tensor(divisors, dtype=torch.float32)


def _dynamic(theta: float, head_dim: int, scaling: DynamicScaling, context: int) -> Tensor:
    """Scale the base so that the lowest frequency is interpolated and the highest one is unchanged."""
    stretch = max(context / scaling.original_context, 1.0)
    growth = scaling.factor * stretch - (scaling.factor - 1)
    # With a single pair there is no lower frequency to interpolate, and the exponent is undefined.
    return _unscaled(theta * growth ** (head_dim / (head_dim - 2)) if head_dim > 2 else theta, head_dim)


def _yarn(theta: float, head_dim: int, scaling: YarnScaling) -> Tensor:
    def pair_with(rotations: float) -> float:
        """Return the (fractional) pair that makes this number of rotations over the original context."""
        return head_dim * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    interpolated = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    kept = _unscaled(theta, head_dim)
    return kept / scaling.factor * interpolated + kept * (1 - interpolated)


def _llama3(theta: float, head_dim: int, scaling: Llama3Scaling) -> Tensor:
    kept = _unscaled(theta, head_dim)
    rotations = scaling.original_context * kept / (2 * math.pi)  # over the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    share_kept = ((rotations - low) / (high - low)).clamp(0, 1)
    return kept / scaling.factor * (1 - share_kept) + kept * share_kept
