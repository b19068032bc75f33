"""Find graphs whose replays differ in their GPU events: a graph runs the same events each time, so some are missing.

The trace does not say which graph a launch replays. Two replays count as one graph if they share many events and
differ as records that were dropped at random differ, not as two graphs of one model differ: those have the same number
of layers, so the counts of their kernels differ by multiples of that number.
"""

from collections import defaultdict
from itertools import pairwise

import msgspec
import numpy as np

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.launch_calls import Launches
from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.reading.columns import Ints, Ints32, Trace

_SIMILAR = 0.3
"""Share of events in common, of the union by name, from which two replays may be of one graph."""
_FEWEST_LAYERS = 4
"""Runs per replay from which a kernel counts as one that every layer runs."""
_IRREGULAR_SHARE = 1 / 3
"""Share of the kernels that every layer runs whose counts differ irregularly if records are missing."""
_MAX_PAIRS = 400
"""Maximum number of pairs of replays that are compared, spread over the recording."""
_FEW_REPLAYS = 3


class ReplayRepeats(msgspec.Struct, frozen=True):
    """Replays that were compared with another replay of what seems to be the same graph."""

    compared: int
    """Number of pairs of similar replays, equal ones included."""
    different: int
    """Number of pairs of which one replay lacks records."""
    fewest_events: int
    """Smallest number of GPU events in a replay of a pair that differs; 0 without such a pair."""
    most_events: int
    """Largest number of GPU events in a replay of a pair that differs; 0 without such a pair."""
    from_ns: int
    """Start of the first GPU event of the replays that differ."""
    to_ns: int
    """Start of the first GPU event of the last replay that differs."""


class _Replay(msgspec.Struct, frozen=True, eq=False):
    """The GPU events of one replay."""

    names: Ints32
    """Name of each event, in order of (device, time)."""
    counts: dict[int, int]
    """Number of events of each name."""
    start_ns: int

    @property
    def size(self) -> int:
        """Number of GPU events."""
        return sum(self.counts.values())


def compare_replays(trace: Trace, attribution: Attribution, launches: Launches, steps: Steps) -> ReplayRepeats:
    """Compare replays at the same place of steps with equal labels or, without labels, each replay with the next."""
    replayed = launches.call[launches.is_graph & ~launches.is_captured].tolist()
    has_events = np.zeros(len(trace.calls), np.bool_)
    has_events[attribution.launch[attribution.replayed]] = True
    pairs = _pairs_of_steps(trace, replayed, steps) or list(pairwise(replayed))
    pairs = [(one, other) for one, other in pairs if has_events[one] and has_events[other]]
    pairs = pairs[:: len(pairs) // _MAX_PAIRS + 1]
    replays = _read_replays(trace, attribution, pairs)
    read = [(replays[one], replays[other]) for one, other in pairs]
    similar = [(one, other) for one, other in read if _are_similar(one.counts, other.counts)]
    unequal = [pair for pair in similar if pair[0].counts != pair[1].counts and not _is_cut_off(*pair)]
    heavy = [_heavy_counts(one.counts, other.counts) for one, other in unequal]
    layers = _number_of_layers([change for counts in heavy for change in _changes(counts)])
    differ = [pair for pair, counts in zip(unequal, heavy, strict=True) if _lacks_records(counts, layers)]
    if not differ and len(replayed) >= _FEW_REPLAYS and 2 * len(unequal) > len(pairs):
        differ = [pair for pair in unequal if _is_short(*pair)]
    both = [replay for pair in differ for replay in pair]
    return ReplayRepeats(
        compared=len(similar),
        different=len(differ),
        fewest_events=min((replay.size for replay in both), default=0),
        most_events=max((replay.size for replay in both), default=0),
        from_ns=min((replay.start_ns for replay in both), default=0),
        to_ns=max((replay.start_ns for replay in both), default=0),
    )


def _pairs_of_steps(trace: Trace, launches: list[int], steps: Steps) -> list[tuple[int, int]]:
    """Pair the n-th replays of consecutive steps of equal labels; return no pairs if labels do not tell the batch."""
    places: defaultdict[tuple[str, int | None, int | None, int], list[int]] = defaultdict(list)
    seen: defaultdict[int, int] = defaultdict(int)
    begun = np.searchsorted(steps.start_ns, trace.calls.start_ns[np.array(launches, np.int64)], side="right") - 1
    for launch, step in zip(launches, begun.tolist(), strict=True):
        if step >= 0 and steps.labels[step].batch is not None:
            label = steps.labels[step]
            places[label.phase, label.batch, label.tokens, seen[step]].append(launch)
            seen[step] += 1
    return [pair for found in places.values() for pair in pairwise(found)]


def _read_replays(trace: Trace, attribution: Attribution, pairs: list[tuple[int, int]]) -> dict[int, _Replay]:
    """Return the replay of each launch in the pairs."""
    wanted = np.zeros(len(trace.calls) + 1, np.bool_)
    wanted[[launch for pair in pairs for launch in pair]] = True
    at = np.flatnonzero(wanted[attribution.launch])  # UNLINKED is the last entry, which is not wanted
    order = at[np.argsort(attribution.launch[at], kind="stable")]
    edges = np.flatnonzero(np.diff(attribution.launch[order])) + 1
    return {int(attribution.launch[one[0]]): _replay(trace, one) for one in np.split(order, edges) if len(one)}


def _replay(trace: Trace, events: Ints) -> _Replay:
    names = trace.gpu.name[events]
    used, counts = np.unique(names, return_counts=True)
    return _Replay(names, dict(zip(used.tolist(), counts.tolist(), strict=True)), int(trace.gpu.start_ns[events].min()))


def _are_similar(one: dict[int, int], other: dict[int, int]) -> bool:
    common = sum(min(count, other.get(name, 0)) for name, count in one.items())
    union = sum(one.values()) + sum(other.values()) - common
    return common >= _SIMILAR * union


def _is_cut_off(one: _Replay, other: _Replay) -> bool:
    """True if one replay is the beginning of the other: the recording ended while it ran."""
    size = min(one.size, other.size)
    return np.array_equal(one.names[:size], other.names[:size])


def _heavy_counts(one: dict[int, int], other: dict[int, int]) -> list[tuple[int, int]]:
    """Return the counts in two replays of the kernels that every layer runs."""
    common = [(one[name], other[name]) for name in one.keys() & other.keys()]
    return [counts for counts in common if max(counts) >= _FEWEST_LAYERS]


def _changes(counts: list[tuple[int, int]]) -> list[int]:
    return [abs(one - other) for one, other in counts if one != other]


def _number_of_layers(changes: list[int]) -> int:
    """Return the number, of at least _FEWEST_LAYERS, that divides most of the changes: the largest such number."""
    candidates = range(_FEWEST_LAYERS, max(changes, default=0) + 1)
    return max(candidates, key=lambda number: (sum(one % number == 0 for one in changes), number), default=1)


def _lacks_records(counts: list[tuple[int, int]], layers: int) -> bool:
    """True if the counts of many kernels that every layer runs differ, and not by a multiple of the layers."""
    irregular = [change for change in _changes(counts) if layers == 1 or change % layers]
    return len(irregular) > 0 and len(irregular) >= _IRREGULAR_SHARE * len(counts)


def _is_short(one: _Replay, other: _Replay) -> bool:
    """True for replays of different size in which no kernel runs several times, as the kernels of layers do."""
    return max(*one.counts.values(), *other.counts.values()) < _FEWEST_LAYERS and one.size != other.size
