"""Tests that rows looked up in tables are those of torch."""

import pytest
import torch
from devices import DEVICE, DTYPES, generator

from roseinfer.kernels.embedding_rows import Rows, embedding_rows, embedding_rows_reference, embedding_rows_triton

pytestmark = pytest.mark.usefixtures("single_threaded")


def rows_of(seed: int, num_rows: int, size: int, ids: int, dtype: torch.dtype, id_dtype: torch.dtype) -> Rows:
    random = generator(seed)
    table = torch.randn(num_rows, size, generator=random).to(dtype).to(DEVICE)
    return Rows(table, torch.randint(num_rows, (ids,), generator=random).to(id_dtype).to(DEVICE))


@pytest.mark.parametrize("dtype", DTYPES if DEVICE.type == "cpu" else [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 96, 576, 1024])
@pytest.mark.parametrize(("ids", "id_dtype"), [(1, torch.int64), (5, torch.int32), (17, torch.int64)])
def test_rows_and_sums_of_rows_are_those_of_torch(
    dtype: torch.dtype, size: int, ids: int, id_dtype: torch.dtype
) -> None:
    tokens = rows_of(1, 50, size, ids, dtype, id_dtype)
    positions = rows_of(2, 30, size, ids, dtype, id_dtype)
    assert torch.equal(embedding_rows_triton(tokens), embedding_rows_reference(tokens))
    assert torch.equal(embedding_rows_triton(tokens, positions), embedding_rows_reference(tokens, positions))


def test_rows_of_a_table_may_lie_apart() -> None:
    wide = rows_of(3, 20, 64, 7, torch.float32, torch.int64)
    part = Rows(wide.table[:, 16:48], wide.ids)
    assert torch.equal(embedding_rows_triton(part), wide.table[wide.ids, 16:48])


def test_ids_may_lie_apart() -> None:
    (table, ids), (other, other_ids) = (rows_of(seed, 20, 32, 14, torch.float32, torch.int64) for seed in (4, 5))
    found = embedding_rows_triton(Rows(table, ids[::2]), Rows(other, other_ids[1::2]))
    assert torch.equal(found, table[ids[::2]] + other[other_ids[1::2]])


@pytest.mark.parametrize("shape", [(0,), (4,)])
def test_the_entry_takes_any_number_of_ids_and_float64(shape: tuple[int, ...]) -> None:
    table = torch.randn(9, 8, dtype=torch.float64, device=DEVICE)
    ids = torch.zeros(shape, dtype=torch.int64, device=DEVICE)
    assert torch.equal(embedding_rows(Rows(table, ids), Rows(table, ids)), 2 * table[ids])
