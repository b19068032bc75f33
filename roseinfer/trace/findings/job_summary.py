"""The job of several ranks: what they wait for, per collective, per rank and per step."""

import msgspec
import numpy as np

from roseinfer.trace.facts.rank_waits import RankWaits
from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.findings.idle_places import IdlePlaces
from roseinfer.trace.findings.straggler import STRAGGLER_SHARE, find_straggler
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.budget_structs import BudgetSummary
from roseinfer.trace.summary.device_structs import RankSummary
from roseinfer.trace.summary.rank_structs import (
    CollectiveSummary,
    CollectiveWait,
    JobStep,
    JobSummary,
    MissingCollective,
)
from roseinfer.trace.summary.units import to_ms, to_percent

_LONGEST = 20
"""Number of collectives that are listed one by one."""


def summarize_job(
    facts: Facts,
    waits: RankWaits | None,
    groups: StepGroups,
    budget: BudgetSummary | None,
    ranks: list[RankSummary],
    places: IdlePlaces,
) -> tuple[JobSummary | None, list[CollectiveSummary], list[RankSummary]]:
    """Return (waits of the job, one row per kind of collective, the rows of the ranks with their waits)."""
    if waits is None or budget is None:
        return None, [], ranks
    matches = waits.matches
    rows = [_with_waits(row, waits, budget) for row in ranks]
    missing: dict[int, MissingCollective] = {}
    for one in matches.missing:
        before = missing.get(one.rank, MissingCollective(one.rank, 0, 0, one.first))
        first = min(before.first, one.first)
        missing[one.rank] = MissingCollective(one.rank, before.count + one.count, before.of + one.of, first)
    at = waits.matched
    job = JobSummary(
        num_ranks=len(set(facts.trace.file_ranks)),
        matched=len(matches),
        unmatched=len(waits.events) - len(at),
        wait_ms=to_ms(matches.wait_ns.sum()),
        transfer_ms=to_ms((matches.transfer_ns * matches.num_ranks).sum()),
        exposed_wait_ms=to_ms(waits.exposed_wait_ns[at].sum()),
        exposed_transfer_ms=to_ms(waits.exposed_transfer_ns[at].sum()),
        unrecorded_wait_ms=to_ms(waits.unrecorded_ns[at].sum()),
        straggler=find_straggler(facts, waits, budget, places),
        missing=[missing[rank] for rank in sorted(missing)],
        steps=_steps(facts, waits, groups, budget),
        longest_waits=_longest_waits(waits, groups),
    )
    return job, _collectives(facts, waits), rows


def _with_waits(row: RankSummary, waits: RankWaits, budget: BudgetSummary) -> RankSummary:
    matches, at = waits.matches, waits.matched
    mine = at[waits.rank[at] == row.rank]
    mean = [one.compute_ms for one in budget.devices if one.rank == row.rank]
    offset_ns = waits.clock_offset_ns.get(row.rank)
    last = int(np.count_nonzero(waits.last_rank == row.rank))
    explained, cause = waits.explained_ns[at], waits.last_rank[matches.of_event[at]]
    return msgspec.structs.replace(
        row,
        compute_ms=round(sum(mean), 6),
        wait_ms=to_ms(matches.wait_ns[mine].sum()),
        exposed_wait_ms=to_ms(waits.exposed_wait_ns[mine].sum()),
        transfer_ms=to_ms(matches.transfer_ns[matches.of_event[mine]].sum()),
        caused_percent=to_percent(explained[cause == row.rank].sum(), explained.sum()),
        last_percent=to_percent(last, len(mine)),
        clock_offset_us=None if offset_ns is None else offset_ns / 1000,
    )


def _steps(facts: Facts, waits: RankWaits, groups: StepGroups, budget: BudgetSummary) -> list[JobStep]:
    """Return one row per step of the job."""
    if len(groups) == 0:
        return []
    wall: dict[int, list[float]] = {}
    phases = {row.step: row.phase for row in budget.steps}
    for row in budget.steps:
        wall.setdefault(row.step, []).append(row.wall_ms)
    at = waits.matched
    at = at[waits.events.step[at] >= 0]
    of_event = groups.of_step[waits.events.step[at]]
    caused_by = waits.last_rank[waits.matches.of_event[at]]
    ranks = len(set(facts.trace.file_ranks))
    found: list[JobStep] = []
    for step, walls in sorted(wall.items()):
        mine = at[of_event == step]
        caused = np.bincount(caused_by[of_event == step], weights=waits.explained_ns[mine])
        critical = int(caused.argmax()) if caused.any() else None
        mean = to_ms(waits.exposed_wait_ns[mine].sum() / ranks)
        found.append(JobStep(step, phases[step], round(sum(walls) / len(walls), 6), mean, critical))
    return found


def _longest_waits(waits: RankWaits, groups: StepGroups) -> list[CollectiveWait]:
    events, matches = waits.events, waits.matches
    at = waits.matched
    skew = np.zeros(len(matches), np.int64)
    np.maximum.at(skew, matches.of_event[at], matches.wait_ns[at])
    of_sequence = events.sequence[matches.last]
    found: list[CollectiveWait] = []
    for match in np.argsort(-skew, kind="stable")[:_LONGEST].tolist():
        if skew[match] <= 0:
            break
        last, mine = int(matches.last[match]), at[matches.of_event[at] == match]
        step, sequence = int(events.step[last]), int(of_sequence[match])
        found.append(
            CollectiveWait(
                name=events.kinds[int(events.kind[last])],
                group=events.sequences[sequence].group,
                step=int(groups.of_step[step]) if step >= 0 else None,
                place=int(np.count_nonzero(of_sequence[:match] == sequence)),
                last_rank=int(waits.last_rank[match]),
                skew_ms=to_ms(skew[match]),
                transfer_ms=to_ms(matches.transfer_ns[match]),
                wait_ms_by_rank={int(waits.rank[one]): to_ms(matches.wait_ns[one]) for one in mine.tolist()},
            )
        )
    return found


def _collectives(facts: Facts, waits: RankWaits) -> list[CollectiveSummary]:
    events, matches = waits.events, waits.matches
    key = events.sequence[matches.last].astype(np.int64) * len(events.kinds) + events.kind[matches.last]
    found = [_collective(facts, waits, np.flatnonzero(key == one)) for one in np.unique(key).tolist()]
    return sorted(found, key=lambda row: -(row.transfer_ms * len(row.ranks) + sum(row.wait_ms_by_rank.values())))


def _collective(facts: Facts, waits: RankWaits, which: Ints) -> CollectiveSummary:
    """Return the row of some matches, which have one sequence and one operation."""
    events, matches = waits.events, waits.matches
    chosen = np.zeros(len(matches), np.bool_)
    chosen[which] = True
    at = waits.matched
    at = at[chosen[matches.of_event[at]]]
    ranks = np.unique(waits.rank[at]).tolist()
    wait = np.bincount(waits.rank[at], weights=matches.wait_ns[at])
    transfer_ns = matches.transfer_ns[which]
    duration_ns = int((events.end_ns[at] - events.start_ns[at]).sum())
    exposed_ns = int((waits.exposed_wait_ns[at] + waits.exposed_transfer_ns[at]).sum())
    caused = np.bincount(waits.last_rank[matches.of_event[at]], weights=matches.wait_ns[at])
    is_one = caused.sum() > 0 and caused.max() >= STRAGGLER_SHARE * caused.sum()
    sizes = [facts.trace.messages[one].num_bytes if one >= 0 else 0 for one in events.message[matches.last[which]]]
    sent, name = np.array(sizes, np.float64), events.kinds[int(events.kind[matches.last[which[0]]])]
    on_bus = sent * _bus_factor(name, matches.num_ranks[which])
    return CollectiveSummary(
        name=name,
        group=events.sequences[int(events.sequence[matches.last[which[0]]])].group,
        ranks=ranks,
        count=len(which),
        transfer_ms=to_ms(transfer_ns.sum()),
        median_transfer_us=round(float(np.median(transfer_ns)) / 1000, 3),
        wait_ms_by_rank={rank: to_ms(wait[rank]) for rank in ranks},
        straggler=int(caused.argmax()) if is_one else None,
        bytes=round(float(sent.mean())) if sent.all() else None,
        bus_gb_per_s=round(float(on_bus.sum() / transfer_ns.sum()), 2) if sent.all() and transfer_ns.sum() else None,
        hidden_percent=to_percent(duration_ns - exposed_ns, duration_ns),
        largest_wait_ms=to_ms(matches.wait_ns[at].max()),
    )


def _bus_factor(operation: str, num_ranks: Ints) -> Ints | float:
    """Return the bytes on the busiest link per byte of the message, as nccl-tests count them."""
    name = operation.lower().replace("_", "").replace(" ", "")
    share = (num_ranks - 1) / num_ranks
    if "allreduce" in name:
        return np.asarray(2 * share)
    return np.asarray(share) if any(one in name for one in ("gather", "scatter", "alltoall")) else 1.0
