"""The facts that all findings are drawn from, computed once: nesting, launches, gaps, steps."""

import msgspec
import numpy as np

from roseinfer.trace.activity import Activity, activity_of
from roseinfer.trace.attribution import Attribution, attribute
from roseinfer.trace.columns import Ints, Trace
from roseinfer.trace.graphs import MappedSpans, map_replays
from roseinfer.trace.idle import Gaps, find_gaps
from roseinfer.trace.manifest import Manifest
from roseinfer.trace.nesting import Forest, nest
from roseinfer.trace.span_costs import SpanCosts, span_costs
from roseinfer.trace.spans import SpanTable, span_table
from roseinfer.trace.step_stats import steps_of_events
from roseinfer.trace.steps import Steps, find_steps


class Facts(msgspec.Struct, frozen=True, eq=False):
    """A trace, understood as far as arrays go."""

    trace: Trace
    manifest: Manifest | None
    spans: SpanTable
    ops: Forest
    """The nesting of `trace.ops`."""
    attribution: Attribution
    gaps: Gaps
    steps: Steps
    event_step: Ints
    """[gpu] the step in which each GPU event was launched, -1 for none."""
    costs: SpanCosts
    mapped: MappedSpans


def gather_facts(trace: Trace, manifest: Manifest | None = None) -> Facts:
    """Everything that needs arrays."""
    spans = span_table(trace)
    steps = find_steps(trace)
    attribution = attribute(trace, spans)
    gaps = find_gaps(trace, attribution)
    ops = nest(trace.ops.start_ns, trace.ops.end_ns, trace.ops.thread)
    return Facts(
        trace=trace,
        manifest=manifest,
        spans=spans,
        ops=ops,
        attribution=attribution,
        gaps=gaps,
        steps=steps,
        event_step=steps_of_events(trace, steps, attribution),
        costs=span_costs(trace, spans, ops, attribution, gaps),
        mapped=map_replays(trace, spans, attribution, manifest.graphs if manifest else []),
    )


def launching_activity(facts: Facts) -> Activity:
    """What the threads that launched GPU events were doing or, without any, what all threads were doing."""
    launching = np.unique(facts.attribution.thread[facts.attribution.linked])
    return activity_of(
        facts.trace, launching if len(launching) else np.arange(len(facts.trace.threads), dtype=np.int32)
    )
