"""Counter-based random numbers: the same (seed, position) gives the same number, on any device, in any batch.

The mixer is SplitMix64's finalizer (Steele, Lea and Flood, 2014), applied once to the seed and once to seed and
position together.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """SplitMix64's finalizer on an unsigned 64-bit integer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MULTIPLIERS[0]) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLIERS[1]) & _MASK
    return value ^ (value >> 31)


def derived_seed(*parts: int) -> int:
    """One seed out of several numbers, as a non-negative int64."""
    seed = 0
    for part in parts:
        seed = mix(seed ^ (part & _MASK))
    return seed >> 1


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Seeds and positions [rows], int64 -> numbers in [0, 1) [rows], float64."""
    bits = _mix(_mix(seeds) ^ positions)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _mix(value: Tensor) -> Tensor:
    value = value + _signed(_GOLDEN)
    value = (value ^ _shift_right(value, 30)) * _signed(_MULTIPLIERS[0])
    value = (value ^ _shift_right(value, 27)) * _signed(_MULTIPLIERS[1])
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """A logical shift: torch has no unsigned 64-bit arithmetic, and >> copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
