"""The kernels by which ranks exchange data equal their references.

The interpreter runs one kernel after the other and does not wait, so the rank that runs last has what the others sent.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from triton.runtime.interpreter import interpreter_builder

from roseinfer.kernels.norms import Norm
from roseinfer.kernels.ranks import divided_norm as divided_norm_module
from roseinfer.kernels.ranks import joined_norm as joined_norm_module
from roseinfer.kernels.ranks.divided_norm import divided_norm
from roseinfer.kernels.ranks.joined_argmax import joined_argmax
from roseinfer.kernels.ranks.joined_norm import joined_norm, joined_norm_reference
from roseinfer.kernels.ranks.peer_rows import WORD_ELEMENTS, PeerRows, num_peer_words
from roseinfer.kernels.ranks.peer_words import SENTINEL

SIZE, MAX_ROWS = 40, 6


def memories(ranks: int, size: int = SIZE) -> list[PeerRows]:
    """The exchange memory of ranks that are all in this process."""
    words = [torch.full((num_peer_words(ranks, size, MAX_ROWS),), SENTINEL) for _ in range(ranks)]
    addresses = [each.data_ptr() for each in words]
    return [PeerRows.of(rank, ranks, size, MAX_ROWS, words[rank], addresses) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("centered", [False, True], ids=["rms", "layer"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_rank_that_runs_last_has_the_sum_of_all(ranks: int, centered: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(ranks)
    memory = memories(ranks)
    weight, bias = torch.randn(SIZE).to(dtype), torch.randn(SIZE).to(dtype) if centered else None
    norm = Norm(weight, 1e-5, bias, centered)
    for turn in range(7):  # more than there are slots
        rows = 1 + turn * 3 % MAX_ROWS
        partials = [torch.randn(rows, 2 * SIZE).to(dtype)[:, :SIZE] for _ in range(ranks)]
        for partial in partials:
            partial[0, :8] = -0.0  # two words equal the sentinel
        residual = None if turn == 3 else torch.randn(rows, SIZE).to(dtype)
        last = turn % ranks
        for rank in [*(rank for rank in range(ranks) if rank != last), last]:
            memory[rank].failed.zero_()
            normed, stream = joined_norm(memory[rank], partials[rank], residual, norm)
            assert bool(memory[rank].failed) == (rank != last), "a rank has nothing of this turn before it was sent"
        expected_normed, expected_stream = joined_norm_reference(partials, residual, norm)
        tolerance = 0.02 if dtype == torch.bfloat16 else 0.003
        if dtype == torch.float16:  # the interpreter cuts bfloat16 off instead of rounding it
            assert torch.equal(stream + 0.0, expected_stream + 0.0)
        torch.testing.assert_close(stream, expected_stream, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(normed, expected_normed, rtol=tolerance, atol=tolerance)


def test_programs_of_several_rows_have_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    norm = Norm(torch.randn(SIZE).half(), 1e-5)
    partials = [torch.randn(MAX_ROWS, SIZE).half() for _ in range(2)]
    alone, looped = memories(2), memories(2)
    expected = [joined_norm(memory, partial, None, norm) for memory, partial in zip(alone, partials, strict=True)]
    monkeypatch.setattr(joined_norm_module, "num_multiprocessors", lambda device: 4)
    found = [joined_norm(memory, partial, None, norm) for memory, partial in zip(looped, partials, strict=True)]
    assert torch.equal(found[1][0], expected[1][0])
    assert torch.equal(found[1][1], expected[1][1])
    assert not looped[1].failed
    assert torch.equal(looped[1].counters, alone[1].counters)


@pytest.mark.parametrize(("ranks", "dtype"), [(3, torch.bfloat16), (4, torch.float16)])
def test_owners_of_rows_send_their_sums_to_all(ranks: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divided_norm_module, "num_multiprocessors", lambda device: 1)
    torch.manual_seed(ranks)
    memory = memories(ranks)
    centered = ranks == 3
    norm = Norm(torch.randn(SIZE).to(dtype), 1e-5, torch.randn(SIZE).to(dtype) if centered else None, centered)
    for turn in range(4):  # more than there are slots
        rows = MAX_ROWS - turn
        partials = [torch.randn(rows, 2 * SIZE).to(dtype)[:, :SIZE] for _ in range(ranks)]
        for partial in partials:
            partial[0, :8] = -0.0  # two words equal the sentinel
        residual = None if turn == 3 else torch.randn(rows, SIZE).to(dtype)
        before = [each.counters.clone() for each in memory]
        # Nothing waits here. The first time, owners lack rows of later ranks; then later ranks' sums are old.
        for attempt in range(3):
            results = []
            for rank in range(ranks):
                memory[rank].counters.copy_(before[rank])
                memory[rank].failed.zero_()
                results.append(divided_norm(memory[rank], partials[rank], residual, norm))
                assert bool(memory[rank].failed) == (attempt == rank == 0 or (attempt == 0 and rank < ranks - 1))
        expected_normed, expected_stream = joined_norm_reference(partials, residual, norm)
        tolerance = 0.02 if dtype == torch.bfloat16 else 0.003
        for normed, stream in results:
            torch.testing.assert_close(stream, expected_stream, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(normed, expected_normed, rtol=tolerance, atol=tolerance)
            assert torch.equal(stream, results[0][1])
            assert torch.equal(normed, results[0][0])


@pytest.mark.parametrize("join", [joined_norm, divided_norm])
@pytest.mark.parametrize(("multiprocessors", "programs"), [(1, 1), (99, None)])
def test_no_more_programs_run_than_the_device_runs_at_once(
    join: Callable[..., Any], multiprocessors: int, programs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that had not begun while others wait for it would never begin: the ranks would wait forever."""
    for module in (joined_norm_module, divided_norm_module):
        monkeypatch.setattr(module, "num_multiprocessors", lambda device: multiprocessors)
    memory = memories(2)
    join(memory[0], torch.randn(MAX_ROWS, SIZE).half(), None, Norm(torch.randn(SIZE).half(), 1e-5))
    needed = MAX_ROWS if join is joined_norm else MAX_ROWS // 2
    assert interpreter_builder.grid_dim == (programs or needed, 1, 1)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_rank_that_runs_last_has_the_largest_logit_of_all(ranks: int, dtype: torch.dtype) -> None:
    torch.manual_seed(ranks)
    memory = memories(ranks, WORD_ELEMENTS)
    for turn in range(7):
        rows = 1 + turn * 3 % MAX_ROWS
        # Few different values, so that ranks have equal ones.
        logits = torch.randint(-3, 3, (rows, ranks, 7)).to(dtype)
        last = turn % ranks
        for rank in [*(rank for rank in range(ranks) if rank != last), last]:
            memory[rank].failed.zero_()
            tokens = joined_argmax(memory[rank], logits[:, rank], 7 * rank)
            assert bool(memory[rank].failed) == (rank != last)
        expected = [row.flatten().tolist().index(row.max()) for row in logits]
        assert tokens.tolist() == expected
