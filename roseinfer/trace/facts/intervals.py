"""Arithmetic on sets of time intervals, each a pair of int64 arrays: starts and ends in ns."""

import numpy as np

from roseinfer.trace.reading.columns import Ints


def union(start_ns: Ints, end_ns: Ints) -> tuple[Ints, Ints]:
    """Merge intervals, sorted by start, into disjoint ones. Touching intervals are joined."""
    if len(start_ns) == 0:
        return start_ns, end_ns
    reach = np.maximum.accumulate(end_ns)
    first = np.ones(len(start_ns), np.bool_)
    first[1:] = start_ns[1:] > reach[:-1]
    at = np.flatnonzero(first)
    return start_ns[at], reach[np.append(at[1:], len(reach)) - 1]


def length(start_ns: Ints, end_ns: Ints) -> int:
    """Return the time in ns that disjoint intervals cover."""
    return int((end_ns - start_ns).sum())


def union_length(start_ns: Ints, end_ns: Ints) -> int:
    """Return the time in ns that intervals cover, in any order and with overlaps."""
    order = np.argsort(start_ns, kind="stable")
    return length(*union(start_ns[order], end_ns[order]))


def distinct(values: Ints) -> Ints:
    """Return the distinct values in ascending order. For millions of integers, np.unique is slower: it hashes them."""
    ordered = np.sort(values)
    keep = np.ones(len(ordered), np.bool_)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep]


def covered_shares(start_ns: Ints, end_ns: Ints, since_ns: int, until_ns: int, parts: int) -> list[float]:
    """Split a window into `parts` equal parts; return the share, 0 to 1, of each part that the intervals cover.

    The intervals must be sorted and disjoint.
    """
    if len(start_ns) == 0 or until_ns <= since_ns or parts < 1:
        return []
    edges = np.linspace(since_ns, until_ns, parts + 1)
    times = np.stack((start_ns, end_ns), axis=1).ravel().astype(np.float64)
    done = np.cumsum(end_ns - start_ns)
    covered = np.stack((done - (end_ns - start_ns), done), axis=1).ravel()
    shares = np.diff(np.interp(edges, times, covered)) / np.diff(edges)
    return [round(min(1.0, max(0.0, share)), 4) for share in shares.tolist()]
