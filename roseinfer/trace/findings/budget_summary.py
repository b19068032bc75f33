"""The time budget: the wall time of steps, devices and the recording, split without remainder."""

from typing import Any, Literal

import numpy as np

from roseinfer.trace.facts.activity_labels import ActivityLabels
from roseinfer.trace.facts.budget_parts import COMMUNICATION, COMPUTE, COPY, NOT_RECORDED, PARTS, host_parts
from roseinfer.trace.facts.budget_sums import BudgetSums, BudgetTable
from roseinfer.trace.facts.cpu_work import cpu_work
from roseinfer.trace.facts.data_loading import loading_table
from roseinfer.trace.facts.device_work import device_work
from roseinfer.trace.facts.host_activity import Activity
from roseinfer.trace.facts.idle_edges import beside_work, edges_of_recording, host_stretches
from roseinfer.trace.facts.idle_pieces import IdlePieces, IdleStretches, cut_idle_time
from roseinfer.trace.facts.intervals import contains, distinct
from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.facts.unexplained_time import unexplained_time
from roseinfer.trace.facts.wall_time import wall_time
from roseinfer.trace.findings.exposed_work import ExposedPlaces
from roseinfer.trace.findings.idle_places import IdlePlaces
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.budget_structs import (
    BudgetSummary,
    DeviceBudget,
    HostTime,
    PhaseBudget,
    StepBudget,
    TimeBudget,
)
from roseinfer.trace.summary.units import to_ms

_NOTHING = (np.zeros(0, np.int64), np.zeros(0, np.int64))
"""No intervals."""
_DeviceKey = tuple[Literal["gpu", "cpu"], int]
"""A device: an index into `trace.devices`, or into `trace.file_ranks` if the file has no GPU events."""


class BudgetBuilder:
    """Builds the budget from the pieces of all gaps, which are added batch after batch."""

    def __init__(self, facts: Facts, groups: StepGroups, activity: Activity, labels: ActivityLabels) -> None:
        self._facts, self._groups, self._activity = facts, groups, activity
        self._wall = wall_time(facts)
        self._labels, self._parts = labels, host_parts(facts, activity, labels)
        self._loading = loading_table(facts)
        self.places, self._exposed = IdlePlaces(facts, labels), ExposedPlaces(facts, activity, labels)
        self._sums: dict[_DeviceKey, BudgetSums] = {}
        self._doubtful: dict[_DeviceKey, tuple[Ints, Ints]] = {}

    def add_gaps(self, idle: IdleStretches, pieces: IdlePieces) -> None:
        """Add the pieces of some gaps between GPU events."""
        devices = np.unique(idle.device).tolist()
        for device in devices:
            mine = pieces if len(devices) == 1 else pieces.where(idle.device[pieces.stretch] == device)
            self._add(("gpu", device), idle, mine)

    def summary(self) -> BudgetSummary | None:
        """Return the budget of everything added, and of the time outside gaps; None for a trace without wall time."""
        facts = self._facts
        idle = edges_of_recording(facts, self._wall)
        self.add_gaps(idle, cut_idle_time(facts, self._activity, idle))
        busy_files = {facts.trace.device_files[device] for device in np.unique(facts.trace.gpu.device).tolist()}
        for device in np.unique(facts.trace.gpu.device).tolist():
            self._add_work(device)
        for file in range(len(facts.trace.file_ranks)):
            if file not in busy_files:
                self._add_file(file)
        tables = {key: sums.table() for key, sums in self._sums.items()}
        total = sum((table.recording for table in tables.values()), np.zeros(len(PARTS), np.int64))
        wall_ns = int(total.sum())
        if wall_ns == 0:
            return None
        return BudgetSummary(
            total=TimeBudget(**_fields(total)),
            phases=self._phases(tables),
            devices=self._devices(tables),
            steps=self._steps(tables),
            idle=self.places.ranked(wall_ns),
            exposed=self._exposed.ranked(wall_ns),
            steps_have_own_work=self._wall.has_own_work,
        )

    def _sums_of(self, key: _DeviceKey) -> BudgetSums:
        if key not in self._sums:
            wall, file = self._wall, self._file(key)
            steps = np.flatnonzero(self._facts.step_file == file)
            start, end = int(wall.start_ns[file]), int(wall.end_ns[file])
            self._sums[key] = BudgetSums(start, end, steps, wall.step_start_ns[steps], wall.step_end_ns[steps])
        return self._sums[key]

    def _doubtful_times(self, key: _DeviceKey) -> tuple[Ints, Ints]:
        if key not in self._doubtful:
            end_ns = int(self._wall.end_ns[self._file(key)])
            self._doubtful[key] = unexplained_time(self._facts, key[1], end_ns) if key[0] == "gpu" else _NOTHING
        return self._doubtful[key]

    def _file(self, key: _DeviceKey) -> int:
        return self._facts.trace.device_files[key[1]] if key[0] == "gpu" else key[1]

    def _add(self, key: _DeviceKey, idle: IdleStretches, pieces: IdlePieces) -> None:
        pieces = pieces.after(int(self._wall.start_ns[self._file(key)]))
        if len(pieces) == 0:
            return
        doubtful = self._doubtful_times(key)
        pieces = pieces.split_at(distinct(np.concatenate(doubtful)))
        pieces, loading = self._loading.cut(pieces)
        is_loading = loading >= 0
        if len(self._facts.frames):
            is_loading |= np.append(self._facts.frames.loading, -1)[pieces.frame] >= 0
        label = self._labels.at(pieces.owner)
        part = self._parts.of(pieces, label, is_loading)
        if len(doubtful[0]):
            part[contains(*doubtful, pieces.begin_ns)] = NOT_RECORDED
        self._sums_of(key).add_pieces(part, pieces.begin_ns, pieces.length_ns)
        self.places.add(self._identity(key)[0], idle, pieces, label, part, loading)

    def _add_work(self, device: int) -> None:
        """Add the time in which a GPU ran something."""
        work, sums = device_work(self._facts.trace, device), self._sums_of(("gpu", device))
        sums.add_busy(COMPUTE, *work.compute, *_NOTHING)
        sums.add_busy(COMMUNICATION, *work.kernels, *work.compute)
        sums.add_busy(COPY, *work.busy, *work.kernels)
        self._exposed.add(work, int(self._wall.start_ns[self._file(("gpu", device))]))

    def _add_file(self, file: int) -> None:
        """Add the whole recording of a file without GPU events: its device is the CPU, or was not recorded."""
        facts, wall = self._facts, self._wall
        key: _DeviceKey = ("cpu", file)
        launching = facts.trace.calls.thread[facts.launches.call]
        if np.any(np.array(facts.trace.thread_files)[launching] == file):
            start, end = wall.start_ns[file : file + 1], wall.end_ns[file : file + 1]
            idle = host_stretches(start, end, np.full(1, -1, np.int32), np.full(1, file, np.int32))
        else:
            work = cpu_work(facts, file, self._loading)
            self._sums_of(key).add_busy(COMPUTE, *work.compute, *_NOTHING)
            self._sums_of(key).add_busy(COMMUNICATION, *work.busy, *work.compute)
            idle = beside_work(wall, file, *work.busy, int(facts.main_thread[file]))
        self._add(key, idle, cut_idle_time(facts, self._activity, idle))

    def _identity(self, key: _DeviceKey) -> tuple[int, int]:
        """Return (rank, device id): the identity of a device over several files."""
        if key[0] == "gpu":
            device = self._facts.trace.devices[key[1]]
            return device.rank, device.id
        return self._facts.trace.file_ranks[key[1]], 0

    def _devices(self, tables: dict[_DeviceKey, BudgetTable]) -> list[DeviceBudget]:
        rows: dict[tuple[int, int], Ints] = {}
        for key, table in tables.items():
            identity = self._identity(key)
            rows[identity] = rows.get(identity, np.zeros(len(PARTS), np.int64)) + table.recording
        return [DeviceBudget(id=row[1], rank=row[0], **_fields(ns)) for row, ns in sorted(rows.items())]

    def _steps(self, tables: dict[_DeviceKey, BudgetTable]) -> list[StepBudget]:
        labels, number = self._facts.steps.labels, self._groups.of_step
        found = [
            StepBudget(
                step=int(number[step]), phase=labels[step].phase, device=identity[1], rank=identity[0], **_fields(ns)
            )
            for key, table in tables.items()
            for identity in [self._identity(key)]
            for step, ns in zip(table.steps.tolist(), table.of_step, strict=True)
        ]
        return sorted(found, key=lambda row: (row.step, row.rank, row.device))

    def _phases(self, tables: dict[_DeviceKey, BudgetTable]) -> dict[str, PhaseBudget]:
        phases = [label.phase for label in self._facts.steps.labels]
        of_step = self._groups.of_step
        found: dict[str, PhaseBudget] = {}
        for phase in dict.fromkeys(phases):
            sums = np.zeros(len(PARTS), np.int64)
            for table in tables.values():
                mine = np.array([phases[step] == phase for step in table.steps.tolist()], np.bool_)
                sums = sums + table.of_step[mine].sum(axis=0)
            at = np.array([one == phase for one in phases], np.bool_)
            found[phase] = PhaseBudget(steps=len(np.unique(of_step[at])), **_fields(sums))
        return found


def _fields(ns: Ints) -> dict[str, Any]:
    """Return the fields of a TimeBudget for the nanoseconds of each part."""
    ms = {name: to_ms(int(value)) for name, value in zip(PARTS, ns, strict=True)}
    host = HostTime(**{name: ms[name] for name in HostTime.__struct_fields__})
    return {
        "wall_ms": to_ms(int(ns.sum())),
        "compute_ms": ms["compute"],
        "exposed_communication_ms": ms["exposed_communication"],
        "exposed_copy_ms": ms["exposed_copy"],
        "host_ms": host,
        "queue_ms": ms["queue"],
        "not_recorded_ms": ms["not_recorded"],
    }
