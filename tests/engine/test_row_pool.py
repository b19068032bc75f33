"""Row numbers of the runner: the smallest free one first, and no gaps."""

from roseinfer.engine.row_pool import RowPool


def test_rows_count_from_0_and_the_smallest_free_one_comes_first() -> None:
    pool = RowPool()
    assert [pool.allocate() for _ in range(4)] == [0, 1, 2, 3]
    for row in (2, 0):
        pool.free(row)
    assert [pool.allocate() for _ in range(3)] == [0, 2, 4]
