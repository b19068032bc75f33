"""RMS norm and rotation of whole heads, for Triton kernels that compute queries and keys themselves.

The kernel of `rope_append` has code of its own, which computes the two halves of a head separately.
"""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def rotation(angles, dim, HEAD_DIM: tl.constexpr, HAS_TABLE: tl.constexpr):
    """Return cosines and signed sines per dimension, [1, dims] each. `angles` points to a row of the rotary table."""
    HALF: tl.constexpr = HEAD_DIM // 2
    inside = (dim < HEAD_DIM) & HAS_TABLE
    low = dim < HALF
    angle = angles + tl.where(low, dim, dim - HALF)
    cos = tl.load(angle, mask=inside, other=1.0).to(tl.float32)
    sin = tl.load(angle + HALF, mask=inside, other=0.0).to(tl.float32)
    return cos[None, :], tl.where(low, -sin, sin)[None, :]


@triton.jit
def gains(weight, dim, HEAD_DIM: tl.constexpr, HAS_NORM: tl.constexpr):
    """Return the weight of a norm, and the weight with its halves swapped: [1, dims] each."""
    inside = (dim < HEAD_DIM) & HAS_NORM
    gain = tl.load(weight + dim, mask=inside, other=1.0).to(tl.float32)
    swapped = tl.load(weight + _swapped(dim, HEAD_DIM), mask=inside, other=1.0).to(tl.float32)
    return gain[None, :], swapped[None, :]


@triton.jit
def normalized_and_rotated(
    rows,
    present,
    dim,
    gain,
    swapped_gain,
    cos,
    sin,
    eps,
    HEAD_DIM: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_TABLE: tl.constexpr,
):
    """Load the heads that `rows` [heads] point to, normalize and rotate them: [heads, dims], float32."""
    mask = present[:, None] & (dim < HEAD_DIM)[None, :]
    value = tl.load(rows[:, None] + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    swapped = value
    if HAS_TABLE:
        swapped = tl.load(rows[:, None] + _swapped(dim, HEAD_DIM)[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_NORM:
        scale = tl.rsqrt(tl.sum(value * value, 1) / HEAD_DIM + eps)[:, None]
        value = value * scale * gain
        swapped = swapped * scale * swapped_gain
    if HAS_TABLE:
        value = value * cos + swapped * sin
    return value


@triton.jit
def _swapped(dim, HEAD_DIM: tl.constexpr):
    """Return the other dimension of the pair that is rotated together."""
    HALF: tl.constexpr = HEAD_DIM // 2
    return tl.where(dim < HALF, dim + HALF, dim - HALF)
