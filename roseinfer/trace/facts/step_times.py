"""The time that each step took: its span and, if the host ran ahead of the GPU, the GPU events that it launched."""

import msgspec
import numpy as np

from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.reading.columns import Ints, Trace


class StepTimes(msgspec.Struct, frozen=True, eq=False):
    """Times of steps in ns, one entry per step.

    A step ends with its span or with the last GPU event that it launched, whichever is later. The time of a step starts
    with its span or at the end of the previous step on its thread, whichever is later, as for unprofiled steps.
    """

    own_ns: Ints
    """Time of the step, without that in which an earlier step was still running."""
    gap_ns: Ints
    """Time before the step in which no step ran; 0 for the first step of a thread."""
    tail_ns: Ints
    """Time by which the step's GPU events end after its span; 0 if they end before."""


def step_times(trace: Trace, steps: Steps, event_step: Ints) -> StepTimes:
    """Return the times of all steps; `event_step` is the step of each GPU event, -1 for none."""
    end = steps.end_ns.copy()
    launched = event_step >= 0
    np.maximum.at(end, event_step[launched], trace.gpu.end_ns[launched])
    own, gap = np.zeros(len(steps), np.int64), np.zeros(len(steps), np.int64)
    for thread in np.unique(steps.thread).tolist():
        at = np.flatnonzero(steps.thread == thread)
        start, latest = steps.start_ns[at], np.maximum.accumulate(end[at])
        before = np.append(start[:1], latest[:-1])
        own[at] = latest - np.maximum(start, before)
        gap[at] = np.maximum(start - before, 0)
    return StepTimes(own, gap, end - steps.end_ns)
