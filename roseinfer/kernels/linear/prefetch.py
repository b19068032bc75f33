"""Weights on their way into the L2 cache while a kernel still waits for its predecessor."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def prefetch_columns(rows, first, size, COLUMNS: tl.constexpr):
    """Ask for columns [first, first + COLUMNS) of matrix rows, as far as they lie below size.

    rows: pointers to the rows' first elements, of 2 or 4 bytes; COLUMNS: a power of two. Not for the interpreter, which
    knows no assembly.
    """
    ELEMENTS: tl.constexpr = 1024 // rows.dtype.element_ty.primitive_bitwidth  # of a cache line
    LINES: tl.constexpr = (COLUMNS + ELEMENTS - 1) // ELEMENTS
    line = tl.minimum(first + tl.arange(0, LINES) * ELEMENTS, size - 1)
    address = (rows[:, None] + line[None, :]).to(tl.uint64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def prefetch_vector(vector, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Ask for the SIZE elements that a pointer stands before; PADDED: no less, a power of two."""
    prefetch_columns(vector + tl.arange(0, 1), 0, SIZE, PADDED)
