"""Idle time of the budget by cause and by place in the program: operator, runtime call, data loading, span."""

from collections import defaultdict
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.activity_labels import NO_LABEL, ActivityLabels
from roseinfer.trace.facts.budget_parts import ALLOCATION, DATA, PARTS, PYTHON, SYNC
from roseinfer.trace.facts.idle_groups import GroupSum, group_totals
from roseinfer.trace.facts.idle_pieces import IdlePieces, IdleStretches
from roseinfer.trace.facts.python_frames import function_of
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32
from roseinfer.trace.summary.budget_structs import IdleCause, IdlePlace
from roseinfer.trace.summary.finding_structs import NO_SPAN
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_PLACES = 100
_CAUSES: dict[int, IdleCause] = {PARTS.index(cause): cause for cause in get_args(IdleCause)}

_WITH_FILE = (DATA, SYNC, ALLOCATION, PYTHON)
"""Parts whose places are told apart by Python function; operators and launch calls are named already."""

_PlaceKey = tuple[int, int, int, int]
"""Key of a place: (part, label or number of labels + 1 + name of data loading, span group, Python function)."""
_RankKey = tuple[int, _PlaceKey]
"""Key of a place on one rank."""


class IdlePlaces:
    """Adds up the idle time by rank, cause and place, batch after batch."""

    def __init__(self, facts: Facts, labels: ActivityLabels) -> None:
        self._facts, self._labels = facts, labels
        self._names = [*facts.trace.names, *facts.spans.groups]
        self._sums: defaultdict[_RankKey, GroupSum] = defaultdict(GroupSum)

    def add(
        self, rank: int, idle: IdleStretches, pieces: IdlePieces, label: Ints32, part: NDArray[np.int8], loading: Ints
    ) -> None:
        """Add pieces of one rank with their labels and parts.

        `loading` has the name of each piece's data loading, -1 for none.
        """
        if len(pieces) == 0:
            return
        is_host = (part > DATA) & (part < PYTHON)
        # Data loading is named by its own span or operator; its names follow the labels.
        name = np.where(is_host, label, np.where(part == DATA, len(self._labels) + loading + 1, NO_LABEL))
        group = np.append(self._facts.spans.group, -1)[pieces.span].astype(np.int64)
        key = (part * np.int64(len(self._facts.spans.groups) + 1) + group + 1) * (
            len(self._labels) + len(self._names) + 1
        ) + name
        file = self._files(pieces, part)
        if len(self._facts.frames):
            key = np.unique(key, return_inverse=True)[1] * (len(self._names) + 1) + file + 1
        totals = group_totals(key, pieces.stretch, pieces.length_ns, idle.is_short[pieces.stretch], join=True)
        event = idle.event[pieces.stretch]
        for index, piece in enumerate(totals.some.tolist()):
            place = int(part[piece]), int(name[piece]), int(group[piece]), int(file[piece])
            totals.add_to(self._sums[rank, place], index, pieces.begin_ns, event)

    def ranked(self, wall_ns: int, rank: int | None = None) -> list[IdlePlace]:
        """Return the 100 places with the most idle time, of one rank or of all, the longest first.

        `wall_ns` is the time of all devices.
        """
        sums: defaultdict[_PlaceKey, GroupSum] = defaultdict(GroupSum)
        for (owner, key), found in self._sums.items():
            if rank in (None, owner):
                sums[key].add(found)
        ranked = sorted(sums.items(), key=lambda item: -item[1].total_ns)[:_MAX_PLACES]
        return [self._place(key, found, wall_ns) for key, found in ranked]

    def _files(self, pieces: IdlePieces, part: NDArray[np.int8]) -> Ints32:
        """Return, per piece, the name of the Python function that the place names, -1 for none."""
        frames = self._facts.frames
        if len(frames) == 0:
            return np.full(len(pieces), -1, np.int32)
        file = np.append(frames.shown, -1)[pieces.frame]
        loading = np.append(frames.loading, -1)[pieces.frame]
        file = np.where((part == DATA) & (loading >= 0), loading, file)
        return np.where(np.isin(part, _WITH_FILE), file, -1).astype(np.int32)

    def _place(self, key: _PlaceKey, found: GroupSum, wall_ns: int) -> IdlePlace:
        part, name, group, function = key
        trace, spans, labels = self._facts.trace, self._facts.spans, self._labels
        around = -1
        if name < len(labels):
            name, around = int(labels.name[name]), int(labels.around[name])
        else:
            name -= len(labels) + 1
        before = found.longest_before
        file = self._names[function] if function >= 0 else None
        return IdlePlace(
            cause=_CAUSES[part],
            name=self._names[name] if name >= 0 else function_of(file or ""),
            operator=self._names[around] if around >= 0 else None,
            span=spans.groups[group] if group >= 0 else NO_SPAN,
            file=file,
            ms=to_ms(found.total_ns),
            short_ms=to_ms(found.short_ns),
            percent=to_percent(found.total_ns, wall_ns),
            gaps=found.stretches,
            longest_ms=to_ms(found.longest_ns),
            longest_before=trace.names[int(trace.gpu.name[before])] if before >= 0 else None,
        )
