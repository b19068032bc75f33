"""Tests that the end of a step records the drawn tokens and advances only the rows in use."""

import pytest
import torch
from devices import DEVICE, generator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roseinfer.kernels.sampling import advance as module
from roseinfer.kernels.sampling.advance import advance, advance_reference, advance_triton

pytestmark = pytest.mark.usefixtures("single_threaded")


def state(rows: int, capacity: int, seed: int) -> list[Tensor]:
    """Return drawn tokens of `rows` rows, and buffers for `capacity` rows."""
    source = generator(seed)

    def integers(*shape: int) -> Tensor:
        return torch.randint(0, 1 << 20, shape, generator=source).to(DEVICE)

    positions = integers(capacity)
    by = torch.randint(0, 2, (capacity,), generator=source).to(DEVICE)
    step = torch.tensor([seed % 3], device=DEVICE)
    return [
        integers(rows),
        integers(capacity),
        positions,
        (positions + 1).to(torch.int32),
        by,
        integers(3, capacity),
        step,
    ]


def views(tensors: list[Tensor], rows: int) -> list[Tensor]:
    drawn, *buffers, history, step = tensors
    return [drawn, *(buffer[:rows] for buffer in buffers), history, step]


@given(rows=st.integers(1, 20), more=st.integers(0, 5), block=st.sampled_from([4, 1024]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_it_moves_the_rows_of_the_batch_and_no_others(rows: int, more: int, block: int, seed: int) -> None:
    found, expected = state(rows, rows + more, seed), state(rows, rows + more, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        for _ in range(3 - seed % 3):
            advance_triton(*views(found, rows))
            advance_reference(*views(expected, rows))
    for mine, wanted in zip(found, expected, strict=True):
        assert torch.equal(mine, wanted)


def test_the_entry_keeps_what_was_drawn() -> None:
    tensors = state(2, 4, seed=1)
    drawn, token_ids, positions, context_lens, by, history, step = tensors
    before, lengths, moved = positions.clone(), context_lens.clone(), by.clone()
    advance(*views(tensors, 2))
    assert torch.equal(history[1, :2], drawn)
    assert torch.equal(token_ids[:2], drawn)
    assert torch.equal(positions[:2], before[:2] + moved[:2])
    assert torch.equal(context_lens[:2], lengths[:2] + moved[:2].int())
    assert step.item() == 2
