"""The product of a tile of weights with a tile of input rows, in Triton kernels."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def added_product(weights, values, sums, WEIGHTS_FIRST: tl.constexpr):
    """Return sums plus the product of weights [outputs, columns] and values [rows, columns].

    With WEIGHTS_FIRST, sums are [outputs, rows], else [rows, outputs].
    """
    if WEIGHTS_FIRST:
        added = tl.dot(weights, tl.trans(values), sums, input_precision="ieee")
    else:
        added = tl.dot(values, tl.trans(weights), sums, input_precision="ieee")
    return added
