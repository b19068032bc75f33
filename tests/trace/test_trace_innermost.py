"""Innermost events and repeated sequences agree with slow, simple computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roseinfer.trace.facts.innermost import cut_in_order, innermost_at
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.findings.repetition import find_repeat

spans = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30), st.integers(0, 20)), max_size=20)
stretches = st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 40), st.integers(0, 20)), max_size=10)


def forest_of(rows: list[tuple[int, int, int]]) -> tuple[Forest, np.ndarray]:
    table = np.array(sorted(rows, key=lambda row: (row[0], row[1], -row[2])), np.int64).reshape(-1, 3)
    thread = table[:, 0].astype(np.int32)
    return nest(table[:, 1], table[:, 1] + table[:, 2], thread), thread


def slow_innermost(forest: Forest, threads: np.ndarray, thread: int, tick: int) -> int:
    """Return the open event that began last, -1 for none."""
    is_open = [
        index
        for index in range(len(threads))
        if threads[index] == thread and forest.start_ns[index] <= tick < forest.end_ns[index]
    ]
    return max(is_open, default=-1)


@given(spans, st.lists(st.tuples(st.integers(0, 2), st.integers(-2, 55)), max_size=30))
def test_the_innermost_event_at_an_instant(rows: list[tuple[int, int, int]], queries: list[tuple[int, int]]) -> None:
    forest, threads = forest_of(rows)
    at = np.array(queries, np.int64).reshape(-1, 2)
    found = innermost_at(forest, threads, at[:, 0].astype(np.int32), at[:, 1])
    assert found.tolist() == [slow_innermost(forest, threads, thread, tick) for thread, tick in queries]


@given(spans, stretches)
def test_stretches_are_cut_wherever_the_innermost_event_changes(
    rows: list[tuple[int, int, int]], cuts: list[tuple[int, int, int]]
) -> None:
    forest, threads = forest_of(rows)
    table = np.array(cuts, np.int64).reshape(-1, 3)
    pieces = cut_in_order(forest, threads, table[:, 0].astype(np.int32), table[:, 1], table[:, 1] + table[:, 2])
    found = [
        (stretch, begin + tick, owner)
        for stretch, owner, begin, length in zip(*(column.tolist() for column in pieces), strict=True)
        for tick in range(length)
    ]
    assert found == [
        (index, tick, slow_innermost(forest, threads, thread, tick))
        for index, (thread, start, length) in enumerate(cuts)
        for tick in range(start, start + length)
    ]


@pytest.mark.parametrize(
    ("sequence", "period", "repeats", "removable"),
    [
        ("abcabcabc", 3, 3, 6),
        ("aaaa", 1, 4, 3),
        ("abababab", 2, 4, 6),
        ("xababxababx", 5, 2, 5),
        ("abcd", None, 0, 0),
        ("", None, 0, 0),
    ],
)
def test_repeats(sequence: str, period: int | None, repeats: int, removable: int) -> None:
    found = find_repeat(np.array([ord(letter) for letter in sequence], np.int64))
    if period is None:
        assert found is None
    else:
        assert found is not None
        assert (found.period, found.repeats, found.removable) == (period, repeats, removable)


@given(st.text("ab", max_size=14))
def test_removable_items_equal_those_removed_by_hand(sequence: str) -> None:
    """Collapsing every run of the best period, by hand, shortens the sequence by `removable`."""
    found = find_repeat(np.array([ord(letter) for letter in sequence], np.int64))
    best = 0
    for period in range(1, len(sequence) // 2 + 1):
        removed, index = 0, 0
        while index + period < len(sequence):
            length = 0
            while (
                index + period + length < len(sequence)
                and sequence[index + length] == sequence[index + period + length]
            ):
                length += 1
            removed += length // period * period
            index += length + 1
        best = max(best, removed)
    assert (found.removable if found else 0) == best
