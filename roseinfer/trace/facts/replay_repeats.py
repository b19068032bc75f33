"""Find graphs whose replays differ in their GPU events: a graph runs the same events each time, so some are missing.

The trace does not say which graph a launch replays. Two replays count as one graph if they share many events and
differ as records that were dropped at random differ, not as two graphs of one model differ: those have the same number
of layers, so the counts of their kernels differ by multiples of that number.
"""

from collections import Counter, defaultdict
from itertools import pairwise
from random import Random

import msgspec
import numpy as np

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.launch_calls import Launches
from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.reading.columns import Ints, Ints32, Trace

_SIMILAR_LAYERS = 0.5
"""Share of events in common, of the union by name, from which two replays may be of one graph."""
_SIMILAR = 0.3
"""The same for replays without layers, in which each lost record changes more."""
_LAGS = (1, 2, 3)
"""Distances between replays that are compared if no labels tell which belong together."""
_FEWEST_LAYERS = 4
"""Runs per replay from which a kernel counts as one that every layer runs."""
_IRREGULAR_SHARE = 1 / 3
"""Share of the kernels that every layer runs whose counts differ irregularly if records are missing."""
_MAX_PAIRS = 400
"""Maximum number of pairs of replays that are compared."""
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
        return len(self.names)

    @property
    def signature(self) -> bytes:
        """Equal for replays with the same events."""
        return np.sort(self.names).tobytes()


def compare_replays(trace: Trace, attribution: Attribution, launches: Launches, steps: Steps) -> ReplayRepeats:
    """Compare replays at the same place of steps with equal labels or, without labels, each replay with its neighbors.

    Two replays that each equal another one are intact: a graph hardly ever loses the same records twice.
    """
    replayed = launches.call[launches.is_graph & ~launches.is_captured].tolist()
    has_events = np.zeros(len(trace.calls), np.bool_)
    has_events[attribution.launch[attribution.replayed]] = True
    pairs, is_labelled = _pairs(trace, replayed, steps)
    pairs = [(one, other) for one, other in pairs if has_events[one] and has_events[other]]
    if len(pairs) > _MAX_PAIRS:
        pairs = Random(0).sample(pairs, _MAX_PAIRS)  # a fixed stride could miss every pair of a regular pattern
    replays = _read_replays(trace, attribution, pairs)
    alike = Counter(replay.signature for replay in replays.values())
    similar = [(replays[one], replays[other]) for one, other in pairs if _similarity(replays[one], replays[other]) > 0]
    unequal = [(one, other) for one, other in similar if one.counts != other.counts and not _is_cut_off(one, other)]
    unique = [pair for pair in unequal if any(alike[replay.signature] == 1 for replay in pair)]
    heavy = [_heavy_counts(*pair) for pair in unique]
    layers = _number_of_layers([change for counts in heavy for change in _changes(counts)])
    differ = [pair for pair, counts in zip(unique, heavy, strict=True) if _lacks_records(counts, layers)]
    short = unequal if is_labelled else unique
    if not differ and len(replayed) >= _FEW_REPLAYS and 2 * len(short) > len(similar):
        differ = [pair for pair in short if _is_short(*pair)]
    both = [replay for pair in differ for replay in pair]
    return ReplayRepeats(
        compared=len(similar),
        different=len(differ),
        fewest_events=min((replay.size for replay in both), default=0),
        most_events=max((replay.size for replay in both), default=0),
        from_ns=min((replay.start_ns for replay in both), default=0),
        to_ns=max((replay.start_ns for replay in both), default=0),
    )


def _pairs(trace: Trace, launches: list[int], steps: Steps) -> tuple[list[tuple[int, int]], bool]:
    """Return pairs of launches that may replay one graph, and whether labels of steps say that they do."""
    in_steps = _launches_of_steps(trace, launches, steps)
    by_label: defaultdict[tuple[str, int | None, int | None, int], list[int]] = defaultdict(list)
    by_place: defaultdict[int, list[int]] = defaultdict(list)
    for step, found in in_steps.items():
        label = steps.labels[step]
        for place, launch in enumerate(found):
            by_place[place].append(launch)
            if label.batch is not None:
                by_label[label.phase, label.batch, label.tokens, place].append(launch)
    if by_label:
        return [pair for found in by_label.values() for pair in pairwise(found)], True
    near = [pair for lag in _LAGS for pair in zip(launches, launches[lag:], strict=False)]
    return sorted({*near, *(pair for found in by_place.values() for pair in pairwise(found))}), False


def _launches_of_steps(trace: Trace, launches: list[int], steps: Steps) -> dict[int, list[int]]:
    """Return the launches of each step, in order of time."""
    found: defaultdict[int, list[int]] = defaultdict(list)
    begun = np.searchsorted(steps.start_ns, trace.calls.start_ns[np.array(launches, np.int64)], side="right") - 1
    for launch, step in zip(launches, begun.tolist(), strict=True):
        if step >= 0:
            found[step].append(launch)
    return found


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


def _similarity(one: _Replay, other: _Replay) -> float:
    """Return the share of events that two replays have in common, by name; 0 if they are of different graphs."""
    common = sum(min(count, other.counts.get(name, 0)) for name, count in one.counts.items())
    share = common / (one.size + other.size - common)
    return share if share >= (_SIMILAR if _is_small(one, other) else _SIMILAR_LAYERS) else 0.0


def _is_small(one: _Replay, other: _Replay) -> bool:
    """True if no kernel of the replays runs several times, as the kernels of layers do."""
    return max(*one.counts.values(), *other.counts.values()) < _FEWEST_LAYERS


def _is_cut_off(one: _Replay, other: _Replay) -> bool:
    """True if one replay is the beginning of the other: the recording ended while it ran."""
    size = min(one.size, other.size)
    return np.array_equal(one.names[:size], other.names[:size])


def _heavy_counts(one: _Replay, other: _Replay) -> list[tuple[int, int]]:
    """Return the counts in two replays of the kernels that every layer runs."""
    common = [(one.counts[name], other.counts[name]) for name in one.counts.keys() & other.counts.keys()]
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
    """True for small replays of different size: their number of events must tell that some are missing."""
    return _is_small(one, other) and one.size != other.size
