"""The end of a decode step on the device: record the drawn tokens and advance the inputs to the next step."""

from torch import Tensor

from roseinfer.kernels.runtime import (
    HAS_TRITON,
    gdc_launch_dependents,
    gdc_wait,
    launch_options,
    next_power_of_two,
    tl,
    triton,
)

_BLOCK = 1024
"""Maximum rows per iteration of the kernel's single program."""


def advance(
    drawn: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    context_lens: Tensor,
    by: Tensor,
    history: Tensor,
    step: Tensor,
) -> None:
    """Copy drawn tokens to token_ids and to row `step` of history; add `by` to positions and lengths, and 1 to step.

    drawn, token_ids, positions, by: [rows], int64. `by` is 0 for padding rows. context_lens: [rows], int32.
    history: [steps, rows or more], int64. step: [1], int64.
    """
    chosen = advance_triton if HAS_TRITON and drawn.is_cuda else advance_reference
    chosen(drawn, token_ids, positions, context_lens, by, history, step)


def advance_reference(
    drawn: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    context_lens: Tensor,
    by: Tensor,
    history: Tensor,
    step: Tensor,
) -> None:
    """Compute `advance` with torch operations."""
    history[:, : len(drawn)].index_copy_(0, step, drawn.unsqueeze(0))
    token_ids.copy_(drawn)
    positions.add_(by)
    context_lens.add_(by)
    step.add_(1)


def advance_triton(
    drawn: Tensor,
    token_ids: Tensor,
    positions: Tensor,
    context_lens: Tensor,
    by: Tensor,
    history: Tensor,
    step: Tensor,
) -> None:
    """Compute `advance` in one Triton kernel."""
    rows = len(drawn)
    _advance_kernel[(1,)](
        drawn,
        token_ids,
        positions,
        context_lens,
        by,
        history,
        step,
        rows,
        history.stride(0),
        BLOCK=min(_BLOCK, next_power_of_two(rows)),
        num_warps=4,
        **launch_options(drawn),
    )


@triton.jit(do_not_specialize=["rows"])
def _advance_kernel(
    drawn,
    token_ids,
    positions,
    context_lens,
    by,
    history,
    step,
    rows,
    history_stride,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    # Earlier kernels still read the inputs that this kernel overwrites: wait until they have finished.
    if PDL:
        gdc_wait()
        gdc_launch_dependents()
    now = tl.load(step)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside = row < rows
        token = tl.load(drawn + row, mask=inside)
        tl.store(history + now * history_stride + row, token, mask=inside)
        tl.store(token_ids + row, token, mask=inside)
        move = tl.load(by + row, mask=inside)
        tl.store(positions + row, tl.load(positions + row, mask=inside) + move, mask=inside)
        length = tl.load(context_lens + row, mask=inside)
        tl.store(context_lens + row, length + move.to(tl.int32), mask=inside)
    tl.store(step, now + 1)
