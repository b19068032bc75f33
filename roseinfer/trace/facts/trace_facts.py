"""Compute, once per trace, the facts that all findings use: nesting, launches, gaps, steps, costs of spans."""

import msgspec
import numpy as np

from roseinfer.trace.facts.attribution import Attribution, attribute, launch_calls
from roseinfer.trace.facts.backward_threads import BackwardThreads, autograd_threads, find_backward_threads
from roseinfer.trace.facts.blind_waits import BlindWaits, find_blind_waits
from roseinfer.trace.facts.graph_replays import MappedSpans, map_replays
from roseinfer.trace.facts.host_activity import Activity, activity_of
from roseinfer.trace.facts.idle_gaps import Gaps, find_gaps
from roseinfer.trace.facts.launch_calls import Captures, Launches, find_captures, find_launches
from roseinfer.trace.facts.main_threads import find_main_threads
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.facts.python_frames import FrameTable, frame_table
from roseinfer.trace.facts.span_costs import SpanCosts, span_costs
from roseinfer.trace.facts.span_table import SpanTable, span_table
from roseinfer.trace.facts.step_times import StepTimes, step_times
from roseinfer.trace.facts.steps import Steps, find_steps, steps_at
from roseinfer.trace.reading.columns import Ints, Ints32, Trace
from roseinfer.trace.reading.trace_manifest import TraceManifest


class Facts(msgspec.Struct, frozen=True, eq=False):
    """A trace and the facts derived from it, as arrays."""

    trace: Trace
    manifest: TraceManifest | None
    backward: BackwardThreads
    spans: SpanTable
    ops: Forest
    """Nesting of the operators, `trace.ops`."""
    attribution: Attribution
    frames: FrameTable
    """Nesting of the Python functions; empty for recordings without stacks."""
    gaps: Gaps
    main_thread: Ints32
    """Per file: index of its main thread, -1 for none."""
    captures: Captures
    launches: Launches
    blind_waits: BlindWaits
    steps: Steps
    event_step: Ints
    """Per GPU event: index of the step in which it was launched, -1 for none."""
    step_times: StepTimes
    costs: SpanCosts
    mapped: MappedSpans
    """GPU events of graph replays, assigned to the spans they were captured under."""

    @property
    def step_file(self) -> Ints:
        """Per step: index of the file in which the step was recorded."""
        return np.array(self.trace.thread_files, np.int64)[self.steps.thread]

    @property
    def step_rank(self) -> Ints:
        """Per step: its rank."""
        return np.array(self.trace.file_ranks, np.int64)[self.step_file]


def gather_facts(trace: Trace, manifest: TraceManifest | None = None) -> Facts:
    """Derive all facts of a trace; the manifest, if any, explains its graph replays."""
    steps = find_steps(trace)
    ops = nest(trace.ops.start_ns, trace.ops.end_ns, trace.ops.thread)
    autograd, calls = autograd_threads(trace, steps), launch_calls(trace)
    main_thread = find_main_threads(trace, steps, autograd, ops, calls)
    backward = find_backward_threads(trace, autograd, main_thread)
    spans = span_table(trace, backward.waiting)
    attribution = attribute(trace, spans, calls)
    gaps = find_gaps(trace, attribution)
    captures = find_captures(trace)
    event_step = _steps_of_events(trace, steps, attribution)
    return Facts(
        trace=trace,
        manifest=manifest,
        backward=backward,
        spans=spans,
        ops=ops,
        attribution=attribution,
        frames=frame_table(trace),
        gaps=gaps,
        main_thread=main_thread,
        captures=captures,
        launches=find_launches(trace, attribution, captures),
        blind_waits=find_blind_waits(trace, attribution),
        steps=steps,
        event_step=event_step,
        step_times=step_times(steps, trace.gpu, event_step, attribution),
        costs=span_costs(trace, spans, ops, attribution, gaps),
        mapped=map_replays(trace, spans, attribution, manifest.graphs if manifest else []),
    )


def _steps_of_events(trace: Trace, steps: Steps, attribution: Attribution) -> Ints:
    """Return, per GPU event, the index of the step in which it was launched, -1 for none."""
    found = steps_at(steps, attribution.launch_start_ns)
    return np.where(attribution.linked, found, -1)


def launching_activity(facts: Facts) -> Activity:
    """Return the activity of the main threads, of those that launched GPU events, and of autograd's.

    Without GPU events, it is the activity of all threads.
    """
    launching = np.unique(facts.attribution.thread[facts.attribution.linked])
    if len(launching) == 0:
        return activity_of(facts.trace, np.arange(len(facts.trace.threads), dtype=np.int32))
    waiting = facts.backward.waiting_for(facts.backward.is_autograd)
    threads = (launching, facts.backward.is_autograd, waiting, facts.main_thread[facts.main_thread >= 0])
    return activity_of(facts.trace, np.unique(np.concatenate(threads)).astype(np.int32))
