"""Prefetch weights into the L2 cache while a kernel still waits for its predecessor."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def prefetch_columns(rows, first, size, COLUMNS: tl.constexpr):
    """Prefetch columns [first, first + COLUMNS) of matrix rows; columns from `size` on are not fetched.

    rows: pointers to the rows' first elements, of 2 or 4 bytes. COLUMNS: a power of two. Triton's interpreter cannot
    run this function, since it contains inline assembly.
    """
    ELEMENTS: tl.constexpr = 1024 // rows.dtype.element_ty.primitive_bitwidth  # per cache line
    LINES: tl.constexpr = (COLUMNS + ELEMENTS - 1) // ELEMENTS
    line = tl.minimum(first + tl.arange(0, LINES) * ELEMENTS, size - 1)
    address = (rows[:, None] + line[None, :]).to(tl.uint64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def prefetch_vector(vector, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """Prefetch the SIZE elements from the pointer `vector` on. PADDED: a power of two, at least SIZE."""
    prefetch_columns(vector + tl.arange(0, 1), 0, SIZE, PADDED)
