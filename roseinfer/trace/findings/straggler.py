"""The rank that all others wait for, and what it was doing meanwhile."""

from collections import defaultdict

import numpy as np

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.python_frames import is_garbage_collection
from roseinfer.trace.facts.rank_waits import RankWaits
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.findings.idle_places import IdlePlaces
from roseinfer.trace.summary.budget_structs import BudgetSummary, DeviceBudget, HostTime, StepBudget, TimeBudget
from roseinfer.trace.summary.finding_structs import NO_SPAN
from roseinfer.trace.summary.rank_structs import PartDifference, Straggler
from roseinfer.trace.summary.units import to_ms, to_percent

STRAGGLER_SHARE = 0.6
"""Share of the waits that a rank must cause to be a straggler: of two ranks that take turns, each causes half."""
_MIN_WAIT = 0.01
"""Share of the wall time of all ranks that they must wait for each other for a rank to be called a straggler."""
_MIN_DIFFERENCE = 0.02
"""Share of the step from which a part in which a rank differs is named."""
_EXPLAINS = 1 / 3
"""Share of the wait for a rank from which a part in which it differs is named, however short it is."""
HOST = "host_ms"
"""Name of all parts together in which a device waits for its host."""

Parts = dict[str, float]
"""Milliseconds per step of each part of the budget but communication."""


def find_straggler(facts: Facts, waits: RankWaits, budget: BudgetSummary, places: IdlePlaces) -> Straggler | None:
    """Return the rank that caused at least 60 % of the exposed waits; None if there is none, or if waits are rare."""
    matches, at = waits.matches, waits.matched
    caused = np.bincount(waits.last_rank[matches.of_event[at]], weights=waits.explained_ns[at])
    total = float(caused.sum())
    if to_ms(total) < _MIN_WAIT * budget.total.wall_ms or caused.max() < STRAGGLER_SHARE * total:
        return None
    rank = int(caused.argmax())
    steps = _steps_by_rank(facts)
    parts = _parts_by_rank(budget)
    others = [one for one in parts if one != rank]
    walls = [sum(one.values()) for one in _walls_by_rank(budget).values()]
    step_ms = sum(walls) / len(walls)
    wait_ms = to_ms(caused[rank] / max(1, len(others)) / max(1, steps.get(rank, 1)))
    does = _differences(parts, rank, others, min(_MIN_DIFFERENCE * step_ms, _EXPLAINS * wait_ms))
    first = does[0].part if does else ""
    kernel, calls = _kernel(facts, rank, steps) if first == "compute_ms" else (None, None)
    is_host = first == HOST or first in HostTime.__struct_fields__
    return Straggler(
        rank=rank,
        caused_percent=to_percent(caused[rank], total),
        wait_ms=wait_ms,
        step_ms=round(step_ms, 6),
        does=does,
        kernel=kernel,
        kernel_calls=calls,
        tokens=_tokens(facts, rank),
        place=_place(places, rank, first) if is_host else None,
        collection=_collection(facts, rank, steps),
    )


def _steps_by_rank(facts: Facts) -> dict[int, int]:
    count = np.bincount(facts.step_rank)
    return {rank: int(number) for rank, number in enumerate(count.tolist()) if number}


def _parts_by_rank(budget: BudgetSummary) -> dict[int, Parts]:
    """Return the mean parts per step of each rank; of the whole recording without steps."""
    found = _walls_by_rank(budget)
    for parts in found.values():
        del parts["exposed_communication_ms"]
    return found


def _walls_by_rank(budget: BudgetSummary) -> dict[int, Parts]:
    rows: defaultdict[int, list[TimeBudget]] = defaultdict(list)
    every: list[StepBudget] | list[DeviceBudget] = budget.steps or budget.devices
    for row in every:
        rows[row.rank].append(row)
    return {rank: _mean(some) for rank, some in sorted(rows.items())}


def _mean(rows: list[TimeBudget]) -> Parts:
    sums: defaultdict[str, float] = defaultdict(float)
    for row in rows:
        for name in ("compute_ms", "exposed_communication_ms", "exposed_copy_ms", "queue_ms", "not_recorded_ms"):
            sums[name] += getattr(row, name)
        for name in HostTime.__struct_fields__:
            sums[name] += getattr(row.host_ms, name)
    return {name: ms / len(rows) for name, ms in sums.items()}


def _differences(parts: dict[int, Parts], rank: int, others: list[int], least_ms: float) -> list[PartDifference]:
    """Return the parts that take a rank longer; those of the host as one part if each alone is too small."""
    if rank not in parts or not others:
        return []
    whole = {one: {HOST: sum(some[name] for name in HostTime.__struct_fields__)} for one, some in parts.items()}
    for of_rank in (parts, whole):
        found = [
            PartDifference(name, round(ms, 6), round(float(np.median([of_rank[one][name] for one in others])), 6))
            for name, ms in of_rank[rank].items()
        ]
        found = [one for one in found if one.ms - one.others_ms > least_ms]
        if found:
            return sorted(found, key=lambda one: one.others_ms - one.ms)
    return []


def _kernel(facts: Facts, rank: int, steps: dict[int, int]) -> tuple[str | None, float | None]:
    """Return the kernel or operator with the largest difference from the other ranks, and its relative calls."""
    trace = facts.trace
    ranks = np.array(trace.file_ranks, np.int64)
    if len(trace.gpu):
        owner = ranks[np.array(trace.device_files)][trace.gpu.device]
        name, duration = trace.gpu.name, trace.gpu.end_ns - trace.gpu.start_ns
    else:
        owner = ranks[np.array(trace.thread_files)][trace.ops.thread]
        name, duration = trace.ops.name, facts.ops.self_ns
    every, names = np.unique(owner), len(trace.names)
    key = np.searchsorted(every, owner) * names + name
    shape = len(every), names
    per_step = np.array([steps.get(one, 1) for one in every.tolist()], np.float64)[:, None]
    times = np.bincount(key, weights=duration, minlength=len(every) * names).reshape(shape) / per_step
    calls = np.bincount(key, minlength=len(every) * names).reshape(shape) / per_step
    mine = every == rank
    work = np.array([not is_collective(one) for one in trace.names], np.bool_)
    gain = (times[mine][0] - np.median(times[~mine], axis=0)) * work
    first = int(gain.argmax())
    if gain[first] <= 0:
        return None, None
    usual = float(np.median(calls[~mine][:, first]))
    return trace.names[first], round(float(calls[mine][0, first]) / usual, 3) if usual else None


def _tokens(facts: Facts, rank: int) -> float | None:
    """Return the mean tokens of the rank's steps relative to the median of the other ranks, None if not known."""
    ranks = facts.step_rank
    sizes: defaultdict[int, list[int]] = defaultdict(list)
    for label, owner in zip(facts.steps.labels, ranks.tolist(), strict=True):
        if label.tokens is not None:
            sizes[owner].append(label.tokens)
    others = [float(np.mean(some)) for owner, some in sizes.items() if owner != rank]
    if rank not in sizes or not others or not np.median(others):
        return None
    return round(float(np.mean(sizes[rank]) / np.median(others)), 3)


def _place(places: IdlePlaces, rank: int, part: str) -> str | None:
    """Return the place with most idle time of a cause on one rank; the span with most of it for all of its host."""
    ranked = places.ranked(0, rank)
    if part == HOST:
        spans: defaultdict[str, float] = defaultdict(float)
        for place in ranked:
            if place.cause in HostTime.__struct_fields__ and place.span != NO_SPAN:
                spans[place.span] += place.ms
        return max(spans, key=lambda one: spans[one], default=None)
    first = next((place for place in ranked if place.cause == part), None)
    return None if first is None else first.file or first.name or first.operator or first.span


def _collection(facts: Facts, rank: int, steps: dict[int, int]) -> PartDifference | None:
    """Return the time per step in which a rank collects garbage; None if that is hardly longer than on the others."""
    trace = facts.trace
    collecting = rows_named(trace.names, trace.frames.name, is_garbage_collection)
    if not collecting.any():
        return None
    group = collecting.astype(np.int32)
    at = np.flatnonzero(collecting & facts.frames.forest.outermost(group))
    forest = facts.frames.forest
    owner = np.array(trace.file_ranks, np.int64)[np.array(trace.thread_files, np.int64)[trace.frames.thread[at]]]
    every = sorted(set(trace.file_ranks))
    ns = np.bincount(owner, weights=forest.end_ns[at] - forest.start_ns[at], minlength=max(every) + 1)
    per_step = {one: float(ns[one]) / max(1, steps.get(one, 1)) for one in every}
    others = float(np.median([per_step[one] for one in every if one != rank]))
    if per_step[rank] <= 2 * others:
        return None
    return PartDifference("garbage_collection", to_ms(per_step[rank]), to_ms(others))
