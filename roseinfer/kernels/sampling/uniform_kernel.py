"""`sampling.uniform` for Triton kernels: a uniform random number as a function of seed and position."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def uniform(seed, position):
    """Return a float32 in [0, 1] from two int64. It can be 1.0, by rounding."""
    bits = _mix(_mix(seed.to(tl.uint64)) ^ position.to(tl.uint64))
    return ((bits >> 11).to(tl.float64) * 1.1102230246251565e-16).to(tl.float32)  # 2 ** -53


@triton.jit
def _mix(value):
    """Mix 64 bits with SplitMix64's finalizer (Steele, Lea and Flood, 2014)."""
    value = value + 0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)
