"""The time that each step took: its span and, if the host ran ahead of the GPU, the GPU events that it launched."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.reading.columns import GpuTable, Ints
from roseinfer.trace.summary.budget_structs import SHORT_STRETCH_NS


class StepTimes(msgspec.Struct, frozen=True, eq=False):
    """Times of recorded steps in ns, one entry per step.

    A step ends with its span or with the last GPU event that it launched, whichever is later. The time of a step starts
    with its span or at the end of the previous step on its thread, whichever is later, as for unprofiled steps.
    """

    own_ns: Ints
    """Time of the step, without that in which an earlier step was still running."""
    gap_ns: Ints
    """Time before the step in which no step ran; 0 for the first step of a thread."""
    tail_ns: Ints
    """Time by which the step's GPU events end after its span; 0 if they end before."""
    has_earlier: NDArray[np.bool_]
    """True if the recording has an earlier step on the thread."""
    is_ahead: NDArray[np.bool_]
    """True if the host began the step before an earlier one had ended."""


def step_times(steps: Steps, gpu: GpuTable, event_step: Ints, attribution: Attribution) -> StepTimes:
    """Return the times of all steps. `event_step` is the index of the step that launched each GPU event, -1 for none.

    If the first GPU event of a recording waits in the queue, the GPU runs work of steps before the recording: the first
    step is without that time.
    """
    end = steps.end_ns.copy()
    launched = np.flatnonzero(event_step >= 0)
    np.maximum.at(end, event_step[launched], gpu.end_ns[launched])
    waits = gpu.start_ns - attribution.launch_start_ns
    own, gap = np.zeros(len(steps), np.int64), np.zeros(len(steps), np.int64)
    has_earlier, is_ahead = np.zeros(len(steps), np.bool_), np.zeros(len(steps), np.bool_)
    for thread in np.unique(steps.thread).tolist():
        at = np.flatnonzero(steps.thread == thread)
        start, latest = steps.start_ns[at], np.maximum.accumulate(end[at])
        mine = launched[event_step[launched] == at[0]]
        first_wait = int(waits[mine[np.argmin(gpu.start_ns[mine])]]) if len(mine) else 0
        before = np.append(start[:1] + (first_wait if first_wait >= SHORT_STRETCH_NS else 0), latest[:-1])
        own[at] = latest - np.maximum(start, before)
        gap[at] = np.maximum(start - before, 0)
        has_earlier[at[1:]], is_ahead[at[1:]] = True, start[1:] < before[1:]
    return StepTimes(own, gap, end - steps.end_ns, has_earlier, is_ahead)
