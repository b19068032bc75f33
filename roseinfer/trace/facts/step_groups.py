"""Group the steps of ranks that work together: however many ranks record a step of their job, it is one step."""

import msgspec
import numpy as np

from roseinfer.trace.facts.rank_waits import RankWaits
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints


class StepGroups(msgspec.Struct, frozen=True, eq=False):
    """Steps of the job, each recorded by one rank or by several."""

    of_step: Ints
    """Per recorded step: index of the job's step, in order of time on the first rank."""
    size: Ints
    """Per step of the job: number of ranks that recorded it."""

    def __len__(self) -> int:
        return len(self.size)


def group_steps(facts: Facts, waits: RankWaits | None) -> StepGroups:
    """Group steps of the same number and phase on ranks that share collectives; other ranks' steps stay alone."""
    steps, trace = facts.steps, facts.trace
    file = facts.step_file
    number = _numbers(file)
    job, offset = _jobs(len(trace.file_ranks), number, waits)
    phases = sorted({label.phase for label in steps.labels})
    phase = np.array([phases.index(label.phase) for label in steps.labels], np.int64)
    key = np.stack((job[file], number + offset[file], phase), axis=1)
    _, first, group, size = np.unique(key, axis=0, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return StepGroups(of_step=place[group.reshape(-1)], size=size[order])


def _numbers(file: Ints) -> Ints:
    """Return the number of each step in its recording, counted from 0."""
    number = np.zeros(len(file), np.int64)
    for one in np.unique(file).tolist():
        at = np.flatnonzero(file == one)
        number[at] = np.arange(len(at))
    return number


def _jobs(files: int, number: Ints, waits: RankWaits | None) -> tuple[Ints, Ints]:
    """Return, per file, the first file of its job, and the difference of the numbers that both give to a step.

    Matched collectives tell which steps belong together, also if one rank's recording began some steps later.
    """
    job, offset = np.arange(files), np.zeros(files, np.int64)
    if waits is None:
        return job, offset
    events, of_event, at = waits.events, waits.matches.of_event, waits.matched
    order = at[np.lexsort((events.file[at], of_event[at]))]
    base = order[np.searchsorted(of_event[order], of_event[at])]  # the same collective on the first of its ranks
    for one in range(files):
        mine = np.flatnonzero((events.file[at] == one) & (events.file[base] < one))
        if len(mine) == 0:
            continue
        first = int(np.bincount(events.file[base[mine]]).argmax())
        job[one] = job[first]
        mine = mine[events.file[base[mine]] == first]
        here, there = events.step[at[mine]], events.step[base[mine]]
        known = (here >= 0) & (there >= 0)
        if known.any():
            apart, count = np.unique(number[there[known]] - number[here[known]], return_counts=True)
            offset[one] = offset[first] + apart[count.argmax()]
    return job, offset
