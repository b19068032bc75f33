"""The choice of the best experts inside kernels."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def sort_keys(scores, expert):
    """Return int64 keys whose order is that of float32 scores, and of equal scores the lower expert first.

    No score may be NaN. The expert is in the key's low bits.
    """
    bits = scores.to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - expert).to(tl.int64)


@triton.jit
def expert_of(key):
    """Return the expert of a sort key."""
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def score_of(key):
    """Return the score of a sort key."""
    ordered = (key >> 32).to(tl.int32)
    return tl.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered).to(tl.float32, bitcast=True)
