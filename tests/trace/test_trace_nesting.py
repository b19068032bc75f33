"""Nesting and self times agree with a simple stack, and times add up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.trace.facts.intervals import length, union, union_length
from roseinfer.trace.facts.nesting import Forest, nest, nest_one_by_one

intervals = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 20)), max_size=40)


def forest_of(rows: list[tuple[int, int, int]]) -> tuple[Forest, np.ndarray]:
    table = np.array(sorted(rows, key=lambda row: (row[0], row[1], -row[2])), np.int64).reshape(-1, 3)
    thread = table[:, 0].astype(np.int32)
    return nest(table[:, 1], table[:, 1] + table[:, 2], thread), thread


@given(intervals)
def test_the_fast_way_nests_like_the_stack(rows: list[tuple[int, int, int]]) -> None:
    forest, thread = forest_of(rows)
    start = forest.start_ns
    table = sorted(rows, key=lambda row: (row[0], row[1], -row[2]))
    end = np.array([row[1] + row[2] for row in table], np.int64)
    parent, depth = np.full(len(start), -1, np.int64), np.zeros(len(start), np.int64)
    for one in np.unique(thread):
        at = np.flatnonzero(thread == one)
        nest_one_by_one(start, end, parent, depth, int(at[0]), int(at[-1]) + 1)
    assert forest.parent.tolist() == parent.tolist()
    assert forest.depth.tolist() == depth.tolist()
    assert forest.end_ns.tolist() == end.tolist()


@given(intervals)
def test_self_times_add_up_to_the_time_in_which_anything_ran(rows: list[tuple[int, int, int]]) -> None:
    forest, thread = forest_of(rows)
    assert (forest.self_ns >= 0).all()
    for one in np.unique(thread):
        at = thread == one
        assert forest.self_ns[at].sum() == union_length(forest.start_ns[at], forest.end_ns[at])


@given(intervals)
def test_children_lie_inside_their_parent(rows: list[tuple[int, int, int]]) -> None:
    forest, thread = forest_of(rows)
    inner = np.flatnonzero(forest.parent >= 0)
    above = forest.parent[inner]
    assert (thread[inner] == thread[above]).all()
    assert (forest.start_ns[inner] >= forest.start_ns[above]).all()
    assert (forest.end_ns[inner] <= forest.end_ns[above]).all()


@given(intervals, st.integers(1, 3))
def test_a_recursive_call_counts_once(rows: list[tuple[int, int, int]], names: int) -> None:
    forest, _ = forest_of(rows)
    group = np.arange(len(rows), dtype=np.int32) % names
    expected = []
    for index in range(len(rows)):
        ancestor, outermost = int(forest.parent[index]), True
        while ancestor >= 0:
            outermost &= group[ancestor] != group[index]
            ancestor = int(forest.parent[ancestor])
        expected.append(outermost)
    assert forest.outermost(group).tolist() == expected


@given(intervals)
def test_values_add_up_over_ancestors(rows: list[tuple[int, int, int]]) -> None:
    forest, _ = forest_of(rows)
    values = np.arange(1, len(rows) + 1, dtype=np.int64)
    expected = values.copy()
    for index in range(len(rows)):
        ancestor = int(forest.parent[index])
        while ancestor >= 0:
            expected[ancestor] += values[index]
            ancestor = int(forest.parent[ancestor])
    assert forest.add_to_ancestors(values).tolist() == expected.tolist()


@given(intervals)
def test_a_union_covers_exactly_the_covered_time(rows: list[tuple[int, int, int]]) -> None:
    start = np.array(sorted(row[1] for row in rows), np.int64)
    end = start + np.array([row[2] for row in rows], np.int64)
    covered = {tick for low, high in zip(start.tolist(), end.tolist(), strict=True) for tick in range(low, high)}
    low, high = union(start, end)
    assert length(low, high) == len(covered) == union_length(start[::-1], end[::-1])
    assert (low[1:] > high[:-1]).all()


def test_very_deep_nesting_is_no_trouble() -> None:
    size = 5000
    start = np.arange(size, dtype=np.int64)
    forest = nest(start, 3 * size - start, np.zeros(size, np.int32))
    assert forest.depth.tolist() == list(range(size))
