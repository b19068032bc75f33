"""Collectives and copies that a device ran while it computed nothing, by name and place."""

from collections import defaultdict
from typing import Literal

import msgspec
import numpy as np

from roseinfer.trace.facts.activity_labels import ActivityLabels
from roseinfer.trace.facts.device_work import DeviceWork, exposed_ns
from roseinfer.trace.facts.host_activity import Activity
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.budget_structs import ExposedWork
from roseinfer.trace.summary.finding_structs import NO_SPAN
from roseinfer.trace.summary.units import to_ms, to_percent

_MAX_ROWS = 100


class _WorkSum(msgspec.Struct):
    count: int = 0
    total_ns: int = 0
    exposed_ns: int = 0


class ExposedPlaces:
    """Adds up exposed work by kind, name, operator and span, device after device."""

    def __init__(self, facts: Facts, activity: Activity, labels: ActivityLabels) -> None:
        self._facts, self._activity = facts, activity
        self._labels = labels
        self._sums: defaultdict[tuple[Literal["communication", "copy"], int, int, int], _WorkSum] = defaultdict(
            _WorkSum
        )

    def add(self, work: DeviceWork, since_ns: int) -> None:
        """Add the exposed work of one device after `since_ns`."""
        self._add("communication", work.collectives, work.compute, since_ns)
        self._add("copy", work.copies, work.kernels, since_ns)

    def ranked(self, wall_ns: int) -> list[ExposedWork]:
        """Return the 100 rows with the most exposed time, the longest first; rows that were hidden are left out."""
        found = [(key, row) for key, row in self._sums.items() if row.exposed_ns > 0]
        found.sort(key=lambda item: -item[1].exposed_ns)
        names, groups = self._facts.trace.names, self._facts.spans.groups
        return [
            ExposedWork(
                kind=kind,
                name=names[name],
                operator=names[operator] if operator >= 0 else None,
                span=groups[group] if group >= 0 else NO_SPAN,
                count=row.count,
                total_ms=to_ms(row.total_ns),
                exposed_ms=to_ms(row.exposed_ns),
                percent=to_percent(row.exposed_ns, wall_ns),
            )
            for (kind, name, operator, group), row in found[:_MAX_ROWS]
        ]

    def _add(
        self, kind: Literal["communication", "copy"], at: Ints, hidden_by: tuple[Ints, Ints], since_ns: int
    ) -> None:
        gpu = self._facts.trace.gpu
        at = at[gpu.end_ns[at] > since_ns]
        if len(at) == 0:
            return
        start, end = gpu.start_ns[at], gpu.end_ns[at]
        exposed = exposed_ns(start, end, hidden_by, since_ns)
        name, operator, group = gpu.name[at], self._operators(at), self._groups(at)
        size = len(self._facts.trace.names) + 1
        key = ((group + 1) * size + operator + 1) * size + name
        _, first, row = np.unique(key, return_index=True, return_inverse=True)
        count = np.bincount(row)
        total = np.bincount(row, weights=end - np.maximum(start, since_ns)).astype(np.int64)
        alone = np.bincount(row, weights=exposed).astype(np.int64)
        for index, event in enumerate(first.tolist()):
            found = self._sums[kind, int(name[event]), int(operator[event]), int(group[event])]
            found.count += int(count[index])
            found.total_ns += int(total[index])
            found.exposed_ns += int(alone[index])

    def _operators(self, at: Ints) -> Ints:
        """Return the name of the innermost operator around the launch of each event, -1 for none."""
        launch = self._facts.attribution.launch[at]
        found = np.full(len(at), -1, np.int64)
        linked = np.flatnonzero(launch >= 0)
        found[linked] = self._labels.around[self._labels.at(self._activity.of_call[launch[linked]])]
        return found

    def _groups(self, at: Ints) -> Ints:
        """Return the group of the innermost span around the launch of each event, -1 for none."""
        return np.append(self._facts.spans.group, -1)[self._facts.attribution.span[at]].astype(np.int64)
