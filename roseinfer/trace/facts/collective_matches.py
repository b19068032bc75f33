"""Match the collectives of all ranks, and split each into the wait for the last rank and the transfer.

A collective ends at about the same time on all ranks, and transfers data once the last rank has begun. The transfer is
therefore the shortest duration over the ranks, and a rank's wait the rest of its own duration: no common clock is
needed.
"""

from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np

from roseinfer.trace.facts.collective_events import CollectiveEvents
from roseinfer.trace.reading.columns import Ints, Trace

_CLEARLY = 0.5
"""Share of the spread of another number of missing steps, below which a number fits clearly better. Regular steps end
about the same time apart whichever number is assumed."""


class MissingCollectives(msgspec.Struct, frozen=True):
    """Collectives that one rank lacks and others have."""

    rank: int
    count: int
    of: int
    """Collectives of the same sequence on the rank that has most."""
    first: int
    """Number of the first one that is missing, counted from 0."""


class CollectiveMatches(msgspec.Struct, frozen=True, eq=False):
    """Collectives that are matched over at least two ranks."""

    of_event: Ints
    """Per event: index of its match, -1 for none."""
    wait_ns: Ints
    """Per event: time before the last rank began, 0 if unmatched."""
    transfer_ns: Ints
    """Per match: shortest duration over the ranks."""
    num_ranks: Ints
    """Per match: number of ranks."""
    last: Ints
    """Per match: event of the rank that began last."""
    missing: list[MissingCollectives]

    def __len__(self) -> int:
        return len(self.last)


def match_collectives(trace: Trace, events: CollectiveEvents) -> CollectiveMatches:
    """Match the collectives of each sequence by their order on each rank."""
    of_event = np.full(len(events), -1, np.int64)
    missing: list[MissingCollectives] = []
    matched = 0
    for ranks in _members(trace, events).values():
        if len(ranks) < 2:
            continue
        places = _places(trace, events, list(ranks.values()))
        size = 1 + max(int(place.max(initial=-1)) for place in places)
        longest = max(len(place) for place in places)
        kind = np.full(size, -1, np.int64)
        agreed, count = np.ones(size, np.bool_), np.zeros(size, np.int64)
        for rank, at, place in zip(ranks, ranks.values(), places, strict=True):
            known = kind[place] >= 0
            agreed[place[known]] &= kind[place[known]] == events.kind[at[known]]
            kind[place] = events.kind[at]
            count[place] += 1
            if len(place) < longest:
                lacks = np.setdiff1d(np.arange(size), place)
                missing.append(MissingCollectives(rank, len(lacks), size, int(lacks[0]) if len(lacks) else size))
        good = agreed & (count > 1)
        number = np.where(good, matched + np.cumsum(good) - 1, -1)
        matched += int(good.sum())
        for at, place in zip(ranks.values(), places, strict=True):
            of_event[at] = number[place]
    return _timed(events, of_event, matched, missing)


def _timed(
    events: CollectiveEvents, of_event: Ints, matched: int, missing: list[MissingCollectives]
) -> CollectiveMatches:
    at = np.flatnonzero(of_event >= 0)
    duration = events.end_ns - events.start_ns
    order = at[np.lexsort((duration[at], of_event[at]))]
    last = order[np.searchsorted(of_event[order], np.arange(matched))]
    wait = np.zeros(len(events), np.int64)
    wait[at] = duration[at] - duration[last][of_event[at]]
    return CollectiveMatches(
        of_event=of_event,
        wait_ns=wait,
        transfer_ns=duration[last],
        num_ranks=np.bincount(of_event[at], minlength=matched),
        last=last,
        missing=missing,
    )


def _members(trace: Trace, events: CollectiveEvents) -> dict[tuple[int, int], dict[int, Ints]]:
    """Return, per (sequence, number of the recording), the events of each rank in order of time.

    A rank has several recordings if it was recorded in several cycles; the first ones of all ranks belong together.
    """
    recording: dict[int, int] = {}
    count: defaultdict[int, int] = defaultdict(int)
    for file in np.argsort(_starts(trace, events), kind="stable").tolist():
        recording[file] = count[trace.file_ranks[file]]
        count[trace.file_ranks[file]] += 1
    members: defaultdict[tuple[int, int], dict[int, Ints]] = defaultdict(dict)
    key = events.file.astype(np.int64) * len(events.sequences) + events.sequence
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    for at in np.split(order, edges) if len(order) else []:
        file, sequence = int(events.file[at[0]]), int(events.sequence[at[0]])
        members[sequence, recording[file]][trace.file_ranks[file]] = at
    size = {index: _group_size(trace, events, index) for index in range(len(events.sequences))}
    # Ranks of several groups that the trace does not tell apart cannot be matched.
    return {key: ranks for key, ranks in members.items() if not 0 < size[key[0]] < len(ranks)}


def _starts(trace: Trace, events: CollectiveEvents) -> Ints:
    """Return the start of each file's first collective, on the clock of the file."""
    starts = np.array(trace.file_origins_ns, np.int64)
    files, at = np.unique(events.file, return_index=True)
    starts[files] += events.start_ns[at]
    return starts


def _group_size(trace: Trace, events: CollectiveEvents, sequence: int) -> int:
    """Return the number of ranks in the group of a sequence, 0 if it is not recorded."""
    sent = np.unique(events.message[events.sequence == sequence])
    return max((trace.messages[one].group_size for one in sent.tolist() if one >= 0), default=0)


def _places(trace: Trace, events: CollectiveEvents, members: list[Ints]) -> list[Ints]:
    """Return, per rank, the place of each of its events in the sequence that all ranks share."""
    sizes = {len(at) for at in members}
    if len(sizes) == 1:
        return [np.arange(len(at)) for at in members]
    by_step = _places_by_step(events, members)
    if by_step is not None:
        return by_step
    longest = max(members, key=len)
    return [_place_in(events, longest, at, range(len(longest) - len(at) + 1)) for at in members]


def _places_by_step(events: CollectiveEvents, members: list[Ints]) -> list[Ints] | None:
    """Return the places if every event is in a step, and ranks differ only in whole steps; None otherwise.

    A rank with fewer steps ended its recording early, unless its collectives' ends say that it began some steps late.
    """
    counts: list[Ints] = []
    for at in members:
        step = events.step[at]
        if np.any(step < 0) or np.any(np.diff(step) < 0):
            return None
        counts.append(np.bincount(step - step[0]))
    whole, longest = max(zip(counts, members, strict=True), key=lambda one: len(one[0]))
    begins = np.append(0, np.cumsum(whole))
    places = []
    for count, at in zip(counts, members, strict=True):
        fitting = [k for k in range(len(whole) - len(count) + 1) if np.array_equal(count, whole[k : k + len(count)])]
        if not fitting:
            return None
        places.append(_place_in(events, longest, at, [int(begins[k]) for k in fitting], _CLEARLY))
    return places


def _place_in(events: CollectiveEvents, longest: Ints, at: Ints, offsets: Sequence[int], at_most: float = 1.0) -> Ints:
    """Return the places of a shorter series in the longest one, at that of some offsets which fits best.

    The right offset has equal operations, and ends that differ by the same time everywhere. An offset replaces an
    earlier one if its times spread by less than `at_most` of the earlier one's.
    """
    best, best_offset = (-1.0, np.inf), 0
    ends = events.end_ns[longest]
    for offset in offsets:
        other = longest[offset : offset + len(at)]
        same = float(np.mean(events.kind[other] == events.kind[at]))
        apart = (ends[offset : offset + len(at)] - events.end_ns[at]).astype(np.float64)
        spread = float(np.median(np.abs(apart - np.median(apart))))
        if same > best[0] or (same == best[0] and spread < best[1] * at_most):
            best, best_offset = (same, spread), offset
    return np.arange(len(at)) + best_offset
