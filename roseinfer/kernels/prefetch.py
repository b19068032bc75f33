"""Weights on their way into the L2 cache while a kernel still waits for its predecessor."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def prefetch_columns(rows, first, size, COLUMNS: tl.constexpr, ELEMENT_BYTES: tl.constexpr):
    """Ask for columns [first, first + COLUMNS) of matrix rows, as far as they lie below size.

    rows: pointers to the rows' first elements; COLUMNS: a power of two, and whole cache lines. Not for the interpreter,
    which knows no assembly.
    """
    ELEMENTS: tl.constexpr = 128 // ELEMENT_BYTES  # of a cache line
    line = first + tl.arange(0, COLUMNS // ELEMENTS) * ELEMENTS
    address = (rows[:, None] + tl.minimum(line, size - 1)[None, :]).to(tl.uint64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )
