"""The times of the steps that the ranks of a job take together."""

import msgspec
import numpy as np

from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints

_UNKNOWN = np.iinfo(np.int64).max


class JobTimes(msgspec.Struct, frozen=True, eq=False):
    """Times in ns of the job's steps, which are those of the recorded steps for a single rank."""

    of_rank_ns: Ints
    """Per recorded step: its time, and that in which its rank waited for the host while other ranks had begun."""
    own_ns: Ints
    """Per step of the job: the longest time of its ranks."""
    span_ns: Ints
    """Per step of the job: the longest span of its ranks."""
    gap_ns: Ints
    """Per step of the job: time before it in which no rank ran a step."""
    tail_ns: Ints
    """Per step of the job: longest time by which GPU events end after the step's span."""


def job_times(facts: Facts, groups: StepGroups) -> JobTimes:
    """Return the times of the job's steps.

    Ranks end a step together, in its last collective. What a rank idles after that belongs to the next step as soon as
    the first rank has begun it.
    """
    times = facts.step_times
    gap = _of_job(np.minimum, np.where(times.has_earlier, times.gap_ns, _UNKNOWN), groups, _UNKNOWN)
    gap[gap == _UNKNOWN] = 0
    waited = np.where(times.has_earlier, times.gap_ns - gap[groups.of_step], 0)
    of_rank = times.own_ns + waited
    spans = facts.steps.end_ns - facts.steps.start_ns
    return JobTimes(
        of_rank_ns=of_rank,
        own_ns=_of_job(np.maximum, of_rank, groups),
        span_ns=_of_job(np.maximum, spans, groups),
        gap_ns=gap,
        tail_ns=_of_job(np.maximum, times.tail_ns, groups),
    )


def _of_job(choose: np.ufunc, values: Ints, groups: StepGroups, start: int = 0) -> Ints:
    """Return the value of each step of the job that `choose` prefers among those of its ranks."""
    found = np.full(len(groups), start, np.int64)
    choose.at(found, groups.of_step, values)
    return found
