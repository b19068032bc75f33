"""Arithmetic on intervals, sorting and grouping agree with slow, simple computations."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.trace.facts.budget_parts import PARTS
from roseinfer.trace.facts.budget_sums import BudgetSums
from roseinfer.trace.facts.device_work import exposed_ns
from roseinfer.trace.facts.idle_groups import group_totals
from roseinfer.trace.facts.intervals import contains, covered_before, stable_order, union, without
from roseinfer.trace.reading.event_order import event_order

intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=8)
Interval = tuple[int, int]


def joined(rows: list[Interval]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(sorted(rows), np.int64).reshape(-1, 2)
    return union(table[:, 0], table[:, 0] + table[:, 1])


def ticks(rows: list[Interval]) -> set[int]:
    return {tick for start, length in rows for tick in range(start, start + length)}


@given(intervals, intervals)
def test_what_other_intervals_leave(rows: list[Interval], others: list[Interval]) -> None:
    start, end = without(*joined(rows), *joined(others))
    left = {tick for low, high in zip(start.tolist(), end.tolist(), strict=True) for tick in range(low, high)}
    assert left == ticks(rows) - ticks(others)
    assert (start[1:] >= end[:-1]).all()


@given(intervals, st.lists(st.integers(-3, 45), max_size=10))
def test_covered_time_before_an_instant_and_membership(rows: list[Interval], at: list[int]) -> None:
    instants, covered = np.array(at, np.int64), ticks(rows)
    found = covered_before(*joined(rows), instants)
    assert found.tolist() == [sum(tick < one for tick in covered) for one in at]
    assert contains(*joined(rows), instants).tolist() == [one in covered for one in at]


@given(intervals, intervals, st.integers(-2, 40))
def test_exposed_time_belongs_to_the_first_event_and_adds_up(
    rows: list[Interval], others: list[Interval], since: int
) -> None:
    table = np.array(sorted(rows), np.int64).reshape(-1, 2)
    found = exposed_ns(table[:, 0], table[:, 0] + table[:, 1], joined(others), since)
    left = {tick for tick in ticks(rows) - ticks(others) if tick >= since}
    expected = []
    for start, length in table.tolist():
        mine = left & set(range(start, start + length))
        expected.append(len(mine))
        left -= mine
    assert found.tolist() == expected


@given(st.lists(st.integers(0, 2**40) | st.integers(0, 3), max_size=20) | st.lists(st.integers(0, 2**62), max_size=5))
def test_the_stable_order(keys: list[int]) -> None:
    assert stable_order(np.array(keys, np.int64)).tolist() == sorted(range(len(keys)), key=keys.__getitem__)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-5, 5) | st.integers(0, 2**61), st.integers(-3, 3)), max_size=20)
)
def test_events_in_order_of_group_start_and_end(rows: list[tuple[int, int, int]]) -> None:
    table = np.array(rows, np.int64).reshape(-1, 3)
    found = event_order(table[:, 0].astype(np.int32), table[:, 1], table[:, 2])
    assert found.tolist() == sorted(range(len(rows)), key=rows.__getitem__)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 9)), min_size=1, max_size=25), st.booleans()
)
def test_totals_of_groups(rows: list[tuple[int, int, int]], join: bool) -> None:
    rows = sorted(rows, key=lambda row: row[1])
    table = np.array(rows, np.int64)
    short = table[:, 1] % 2 == 0
    found = group_totals(table[:, 0], table[:, 1], table[:, 2], short, join=join)
    for index, key in enumerate(sorted({row[0] for row in rows})):
        mine = [row for row in rows if row[0] == key]
        stretches = {stretch for _, stretch, _ in mine}
        by_stretch = [sum(length for _, one, length in mine if one == stretch) for stretch in stretches]
        assert rows[found.some[index]][0] == rows[found.longest[index]][0] == key
        assert found.total_ns[index] == sum(row[2] for row in mine)
        assert found.stretches[index] == len(stretches)
        assert found.short_ns[index] == sum(row[2] for row in mine if row[1] % 2 == 0)
        assert found.longest_ns[index] == (max(by_stretch) if join else max(row[2] for row in mine))


@given(intervals, st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=4), st.integers(0, 20))
def test_pieces_are_added_to_every_step_they_reach_into(rows: list[Interval], steps: list[Interval], low: int) -> None:
    start, end = joined(rows)
    windows = np.array(steps, np.int64).reshape(-1, 2)
    sums = BudgetSums(low, 40, np.arange(len(steps)), windows[:, 0], windows.sum(axis=1))
    part = np.arange(len(start)) % len(PARTS)
    sums.add_pieces(part.astype(np.int8), start, end - start)
    table = sums.table()

    def expected(first: int, last: int) -> list[int]:
        total = [0] * len(PARTS)
        for one, begin, stop in zip(part.tolist(), start.tolist(), end.tolist(), strict=True):
            total[one] += max(0, min(stop, last) - max(begin, first))
        return total

    assert table.recording.tolist() == expected(low, 40)
    assert table.of_step.tolist() == [expected(first, first + length) for first, length in steps]
