"""Explain the idle time of all devices once, for the tables of gaps, of waits, and for the budget."""

import numpy as np

from roseinfer.trace.facts.activity_labels import label_activities
from roseinfer.trace.facts.idle_pieces import cut_idle_time, stretches_of_gaps
from roseinfer.trace.facts.trace_facts import Facts, launching_activity
from roseinfer.trace.findings.budget_summary import BudgetBuilder
from roseinfer.trace.findings.idle_causes import GapRanking
from roseinfer.trace.findings.synchronizing_calls import find_syncs
from roseinfer.trace.summary.budget_structs import BudgetSummary, IdlePlace
from roseinfer.trace.summary.finding_structs import GapGroup, Sync

_BATCH = 1 << 13
"""Number of gaps processed together, which bounds the memory for their pieces."""


def idle_places(facts: Facts, files: list[int]) -> list[IdlePlace]:
    """Return the places of the idle time of some files alone, between their GPU events or beside their CPU's work."""
    activity = launching_activity(facts)
    budget = BudgetBuilder(facts, activity, label_activities(activity, len(facts.trace.names)))
    of_devices = np.isin(np.array(facts.trace.device_files, np.int64)[facts.gaps.device], files)
    which = np.flatnonzero(of_devices)
    for low in range(0, len(which), _BATCH):
        idle = stretches_of_gaps(facts, which[low : low + _BATCH])
        budget.add_gaps(idle, cut_idle_time(facts, activity, idle))
    busy = {facts.trace.device_files[device] for device in np.unique(facts.trace.gpu.device).tolist()}
    for file in files:
        if file not in busy:
            budget.add_file(file)
    return budget.places()


def explain_idle_time(facts: Facts) -> tuple[list[GapGroup], list[Sync], BudgetSummary | None]:
    """Return (groups of gaps, synchronizing calls, budget)."""
    activity = launching_activity(facts)  # the largest table, so built last and freed first
    labels = label_activities(activity, len(facts.trace.names))
    ranking, budget = GapRanking(facts, labels), BudgetBuilder(facts, activity, labels)
    for low in range(0, len(facts.gaps.start_ns), _BATCH):
        idle = stretches_of_gaps(facts, slice(low, low + _BATCH))
        pieces = cut_idle_time(facts, activity, idle)
        ranking.add(idle, pieces)
        budget.add_gaps(idle, pieces)
    return ranking.ranked(), find_syncs(facts, activity), budget.summary()
