"""Split the exposed time of every collective into the wait for the last rank and the transfer."""

import msgspec
import numpy as np

from roseinfer.trace.facts.collective_events import CollectiveEvents, collective_events
from roseinfer.trace.facts.collective_matches import CollectiveMatches, match_collectives
from roseinfer.trace.facts.device_work import outside, own_time
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.facts.wall_time import wall_time
from roseinfer.trace.reading.columns import Ints, Ints32


class RankWaits(msgspec.Struct, frozen=True, eq=False):
    """Collectives of all ranks with their waits. Arrays have one entry per event of `events`, or per match."""

    events: CollectiveEvents
    matches: CollectiveMatches
    rank: Ints32
    """Per event: rank that ran it."""
    exposed_wait_ns: Ints
    """Per event: the part of its wait that neither computation nor an earlier collective covers."""
    exposed_transfer_ns: Ints
    """Per event: the same of the rest of its duration."""
    unrecorded_ns: Ints
    """Per event: the part of `exposed_wait_ns` before the recording of the rank that began last."""
    last_rank: Ints32
    """Per match: rank that began last."""
    clock_offset_ns: dict[int, int]
    """Per rank: median difference of the ends of its matched collectives from those on the first rank."""

    @property
    def explained_ns(self) -> Ints:
        """Per event: the part of `exposed_wait_ns` during which the rank that began last was recorded."""
        return self.exposed_wait_ns - self.unrecorded_ns

    @property
    def matched(self) -> Ints:
        """Indices of the matched events."""
        return np.flatnonzero(self.matches.of_event >= 0)


def rank_waits(facts: Facts) -> RankWaits | None:
    """Match the collectives of all ranks; None if no collective runs on two ranks."""
    ranks = np.array(facts.trace.file_ranks, np.int32)
    if len(set(ranks.tolist())) < 2:
        return None
    events = collective_events(facts)
    matches = match_collectives(facts.trace, events)
    if len(matches) == 0:
        return None
    wall = wall_time(facts)
    wait, transfer = np.zeros(len(events), np.int64), np.zeros(len(events), np.int64)
    for file, computing in events.computing.items():
        at = np.flatnonzero(events.file == file)
        begin, end = own_time(events.start_ns[at], events.end_ns[at], int(wall.start_ns[file]))
        split = np.clip(events.start_ns[at] + matches.wait_ns[at], begin, end)
        wait[at] = outside(computing, begin, split)
        transfer[at] = outside(computing, split, end)
    rank = ranks[events.file]
    origins = np.array(facts.trace.file_origins_ns, np.int64)
    offsets = _clock_offsets(events, matches, rank, origins)
    # All times on the clock of the first rank.
    origins = origins - np.array([offsets.get(one, 0) for one in ranks.tolist()], np.int64)
    last_file = np.append(events.file[matches.last], 0)[matches.of_event]
    before = origins[last_file] + wall.start_ns[last_file] - origins[events.file] - events.start_ns
    return RankWaits(
        events=events,
        matches=matches,
        rank=rank,
        exposed_wait_ns=wait,
        exposed_transfer_ns=transfer,
        unrecorded_ns=np.clip(before, 0, wait),
        last_rank=rank[matches.last],
        clock_offset_ns=offsets,
    )


def _clock_offsets(events: CollectiveEvents, matches: CollectiveMatches, rank: Ints32, origins: Ints) -> dict[int, int]:
    at = np.flatnonzero(matches.of_event >= 0)
    ends = events.end_ns[at] + origins[events.file[at]]
    number, ranks = matches.of_event[at], rank[at]
    reference = np.full(len(matches), -1, np.int64)
    first = np.flatnonzero(ranks == ranks.min())
    reference[number[first]] = first
    found: dict[int, int] = {}
    for one in np.unique(ranks).tolist():
        mine = np.flatnonzero(ranks == one)
        other = reference[number[mine]]
        mine, other = mine[other >= 0], other[other >= 0]
        if len(mine):
            found[one] = int(np.median(ends[mine] - ends[other]))
    return found
