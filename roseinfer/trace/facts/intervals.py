"""Arithmetic on sets of time intervals, each a pair of int64 arrays: starts and ends in ns."""

import numpy as np
from numpy.typing import NDArray

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


def covered_before(start_ns: Ints, end_ns: Ints, at_ns: Ints) -> Ints:
    """Return, for each instant, the time before it that sorted, disjoint intervals cover."""
    done = np.concatenate((np.zeros(1, np.int64), np.cumsum(end_ns - start_ns)))
    begun = np.searchsorted(start_ns, at_ns, side="right")
    ahead = np.maximum(np.append(end_ns, 0)[begun - 1] - at_ns, 0)
    return np.asarray(done[begun] - np.where(begun > 0, ahead, 0), np.int64)


def without(start_ns: Ints, end_ns: Ints, but_start_ns: Ints, but_end_ns: Ints) -> tuple[Ints, Ints]:
    """Return the parts of intervals that others do not cover; all are sorted and disjoint."""
    edges = distinct(np.concatenate((start_ns, end_ns, but_start_ns, but_end_ns)))
    if len(edges) < 2:
        return start_ns, end_ns
    low, high = edges[:-1], edges[1:]
    keep = contains(start_ns, end_ns, low) & ~contains(but_start_ns, but_end_ns, low)
    return union(low[keep], high[keep])


def contains(start_ns: Ints, end_ns: Ints, at_ns: Ints) -> NDArray[np.bool_]:
    """Return, for each instant, True if it lies in one of the sorted, disjoint intervals."""
    begun = np.searchsorted(start_ns, at_ns, side="right")
    if len(start_ns) == 0:
        return np.zeros(len(at_ns), np.bool_)
    return (begun > 0) & (at_ns < end_ns[begun - 1])


def stable_order(key: Ints) -> Ints:
    """Return what `np.argsort(key, kind="stable")` does, for keys from 0 on.

    Sorting keys that hold their own position takes a sixth of the time of a stable argsort, measured on 150,000 keys.
    """
    bits = len(key).bit_length()
    if len(key) == 0 or int(key.max()) >= 1 << (62 - bits):
        return np.argsort(key, kind="stable")
    placed = np.sort((key.astype(np.int64) << bits) | np.arange(len(key)))
    return placed & ((1 << bits) - 1)


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
