"""Find the steps of a trace: the spans that each mark one launch of the model over one batch.

Of the engines whose step spans are in the trace, the first in `STEP_KINDS` counts.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.step_labels import STEP_KINDS, StepLabel
from roseinfer.trace.reading.categories import PROFILER_STEP
from roseinfer.trace.reading.columns import Ints, Trace

_STUB_SHARE = 0.1
"""Share of the median step time below which a trailing ProfilerStep is a stub that the recording's end cut off."""


class Steps(msgspec.Struct, frozen=True, eq=False):
    """The steps of a trace in order of time. Every array has one entry per step."""

    source: str | None
    """The kind of span that marks the steps, a name in `STEP_KINDS`; None without steps."""
    start_ns: Ints
    end_ns: Ints
    thread: NDArray[np.int32]
    labels: list[StepLabel]

    def __len__(self) -> int:
        return len(self.labels)


def find_steps(trace: Trace) -> Steps:
    """Find the steps of a trace, without a trailing `ProfilerStep#N` stub."""
    spans = trace.spans
    for source, read in STEP_KINDS:
        label_of = {index: read(trace.names[index]) for index in np.unique(spans.name).tolist()}
        at = np.flatnonzero(np.isin(spans.name, [index for index, label in label_of.items() if label is not None]))
        if source == "ProfilerStep":
            at = np.setdiff1d(at, stub_spans(trace))
        if len(at):
            at = at[np.argsort(spans.start_ns[at], kind="stable")]
            labels = [label for index in spans.name[at].tolist() if (label := label_of[index]) is not None]
            return Steps(source, spans.start_ns[at], spans.end_ns[at], spans.thread[at], labels)
    none = np.zeros(0, np.int64)
    return Steps(None, none, none, np.zeros(0, np.int32), [])


def stub_spans(trace: Trace) -> Ints:
    """Return the spans to leave out of all statistics: each thread's last ProfilerStep if the recording cut it off."""
    spans = trace.spans
    steps = np.flatnonzero(rows_named(trace.names, spans.name, lambda name: PROFILER_STEP.match(name) is not None))
    stubs: list[int] = []
    for thread in np.unique(spans.thread[steps]).tolist():
        at = steps[spans.thread[steps] == thread]
        duration = spans.end_ns[at] - spans.start_ns[at]
        if len(at) > 1:
            last = int(at[-1])
            short = duration[-1] < _STUB_SHARE * np.median(duration[:-1])
            if short or not _has_work(trace, last):
                stubs.append(last)
    return np.array(stubs, np.int64)


def _has_work(trace: Trace, span: int) -> bool:
    """True if any operator or runtime call other than a synchronize began inside the span."""
    low, high = trace.spans.start_ns[span], trace.spans.end_ns[span]
    if np.any((trace.ops.start_ns >= low) & (trace.ops.start_ns < high)):
        return True
    calls = trace.calls.name[(trace.calls.start_ns >= low) & (trace.calls.start_ns < high)]
    return any("Synchronize" not in trace.names[index] for index in np.unique(calls).tolist())


def steps_at(steps: Steps, at_ns: Ints) -> Ints:
    """Return the step during which each instant lies, -1 for none. Of overlapping steps, the last begun counts."""
    found = np.searchsorted(steps.start_ns, at_ns, side="right") - 1
    if len(steps) == 0:
        return np.full(len(at_ns), -1, np.int64)
    return np.where((found >= 0) & (at_ns < steps.end_ns[found]), found, -1)


def typical_step(steps: Steps, duration_ns: Ints) -> int | None:
    """Return the step of median duration (the upper of two) in the most frequent phase, None without steps."""
    if not len(steps):
        return None
    phases = [label.phase for label in steps.labels]
    phase = max(sorted(set(phases)), key=phases.count)
    at = np.array([index for index, one in enumerate(phases) if one == phase])
    return int(at[np.argsort(duration_ns[at], kind="stable")[len(at) // 2]])
