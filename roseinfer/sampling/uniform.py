"""Counter-based random numbers: equal (seed, position) give equal numbers, on any device and in any batch.

The hash function is SplitMix64's finalizer (Steele, Lea and Flood, 2014). It is applied to the seed, and then to the
result combined with the position.
"""

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """Apply SplitMix64's finalizer to an unsigned 64-bit integer."""
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MULTIPLIERS[0]) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLIERS[1]) & _MASK
    return value ^ (value >> 31)


def derived_seed(*parts: int) -> int:
    """Combine several numbers into one seed, a non-negative int64."""
    seed = 0
    for part in parts:
        seed = mix(seed ^ (part & _MASK))
    return seed >> 1


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1), float64 [rows], for seeds and positions, int64 [rows]."""
    bits = _mix(_mix(seeds) ^ positions)
    return _shift_right(bits, 11).to(torch.float64) * 2.0**-53


def _mix(value: Tensor) -> Tensor:
    """Apply SplitMix64's finalizer elementwise, as `mix` does to a number."""
    value = value + _signed(_GOLDEN)
    value = (value ^ _shift_right(value, 30)) * _signed(_MULTIPLIERS[0])
    value = (value ^ _shift_right(value, 27)) * _signed(_MULTIPLIERS[1])
    return value ^ _shift_right(value, 31)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Shift right without copying the sign, because torch has no unsigned 64-bit shift."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Reinterpret an unsigned 64-bit integer as a signed one."""
    return value - (1 << 64) if value >= 1 << 63 else value
