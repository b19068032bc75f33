"""Explain the idle time of all devices once, for the tables of gaps, of waits, and for the budget."""

from typing import NamedTuple

from roseinfer.trace.facts.activity_labels import label_activities
from roseinfer.trace.facts.idle_pieces import cut_idle_time, stretches_of_gaps
from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.trace_facts import Facts, launching_activity
from roseinfer.trace.findings.budget_summary import BudgetBuilder
from roseinfer.trace.findings.idle_causes import GapRanking
from roseinfer.trace.findings.idle_places import IdlePlaces
from roseinfer.trace.findings.synchronizing_calls import find_syncs
from roseinfer.trace.summary.budget_structs import BudgetSummary
from roseinfer.trace.summary.finding_structs import GapGroup, Sync

_BATCH = 1 << 13
"""Number of gaps processed together, which bounds the memory for their pieces."""


class IdleTime(NamedTuple):
    """Idle time of all devices, explained."""

    gaps: list[GapGroup]
    syncs: list[Sync]
    budget: BudgetSummary | None
    places: IdlePlaces
    """Idle time by rank and place."""


def explain_idle_time(facts: Facts, groups: StepGroups) -> IdleTime:
    """Cut the idle time of all devices once; return its groups, the synchronizing calls, the budget and the places."""
    activity = launching_activity(facts)  # the largest table, so built last and freed first
    labels = label_activities(activity, len(facts.trace.names))
    ranking, budget = GapRanking(facts, labels), BudgetBuilder(facts, groups, activity, labels)
    for low in range(0, len(facts.gaps.start_ns), _BATCH):
        idle = stretches_of_gaps(facts, slice(low, low + _BATCH))
        pieces = cut_idle_time(facts, activity, idle)
        ranking.add(idle, pieces)
        budget.add_gaps(idle, pieces)
    return IdleTime(ranking.ranked(), find_syncs(facts, activity), budget.summary(), budget.places)
