"""Rows of words, with four 16-bit numbers in each, inside Triton kernels: adding them up, and their norm."""

from roseinfer.kernels.ranks.peer_words import element, packed
from roseinfer.kernels.runtime import tl, triton


@triton.jit
def sum_with(x0, x1, x2, x3, words, DTYPE: tl.constexpr):
    """Return the four float32 numbers of each word's place, plus the numbers in `words`."""
    return (
        x0 + element(words, 0, DTYPE),
        x1 + element(words, 1, DTYPE),
        x2 + element(words, 2, DTYPE),
        x3 + element(words, 3, DTYPE),
    )


@triton.jit
def store_normed(
    places,
    x0,
    x1,
    x2,
    x3,
    inside,
    scale,
    shift,
    eps,
    WORDS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    CENTERED: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Store the norm of a row of float32 numbers as words. `scale` and `shift` are words of the norm's parameters."""
    if CENTERED:
        mean = tl.sum(tl.where(inside, x0 + x1 + x2 + x3, 0.0), 0) / (WORDS * 4)
        x0 -= mean
        x1 -= mean
        x2 -= mean
        x3 -= mean
    squares = tl.sum(tl.where(inside, x0 * x0 + x1 * x1 + x2 * x2 + x3 * x3, 0.0), 0)
    factor = tl.rsqrt(squares / (WORDS * 4) + eps)
    x0 = x0 * factor * element(scale, 0, DTYPE)
    x1 = x1 * factor * element(scale, 1, DTYPE)
    x2 = x2 * factor * element(scale, 2, DTYPE)
    x3 = x3 * factor * element(scale, 3, DTYPE)
    if HAS_BIAS:
        x0, x1, x2, x3 = sum_with(x0, x1, x2, x3, shift, DTYPE)
    tl.store(places, packed(x0, x1, x2, x3, DTYPE), mask=inside)
