"""Add up what each span costs: GPU time, GPU events, time in operators, and the GPU idle time it causes."""

import msgspec
import numpy as np

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.custom_operators import is_custom
from roseinfer.trace.facts.idle_gaps import Gaps
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.nesting import Forest
from roseinfer.trace.facts.span_table import SpanTable
from roseinfer.trace.reading.columns import KERNEL, Ints, Trace

SMALL_NS = 5000
"""A GPU event shorter than this, in ns, is small: launching it costs more than running it."""


class SpanCosts(msgspec.Struct, frozen=True, eq=False):
    """Costs of each span without its inner spans.

    Every array has one entry per span, and a last entry for the costs outside all spans.
    """

    gpu_ns: Ints
    gpu_events: Ints
    kernels: Ints
    small: Ints
    """GPU events shorter than SMALL_NS."""
    idle_ns: Ints
    """GPU idle time before and during launch calls, while the span was the innermost one of the launching thread."""
    op_ns: Ints
    """Host time inside operators."""
    custom_op_ns: Ints
    """The part of `op_ns` in operators that are not torch's own."""


def span_costs(trace: Trace, spans: SpanTable, ops: Forest, attribution: Attribution, gaps: Gaps) -> SpanCosts:
    """Compute the costs of each span. Over all entries they add up to the totals of the trace."""
    size = len(spans) + 1
    where = attribution.span  # -1 means the last entry
    duration = trace.gpu.end_ns - trace.gpu.start_ns
    held_up = np.flatnonzero(gaps.linked)
    pieces = spans.cut(
        attribution.thread[gaps.event[held_up]],
        gaps.start_ns[held_up],
        gaps.call_end_ns[held_up],
    )
    top = np.flatnonzero(ops.depth == 0)
    op_ns = ops.end_ns[top] - ops.start_ns[top]
    op_span = spans.innermost_at(trace.ops.thread[top], ops.start_ns[top])
    return SpanCosts(
        gpu_ns=_sum_at(where, duration, size),
        gpu_events=_sum_at(where, np.ones(len(where), np.int64), size),
        kernels=_sum_at(where, (trace.gpu.kind == KERNEL).astype(np.int64), size),
        small=_sum_at(where, (duration < SMALL_NS).astype(np.int64), size),
        idle_ns=_sum_at(pieces.owner, pieces.length_ns, size),
        op_ns=_sum_at(op_span, op_ns, size),
        custom_op_ns=_sum_at(op_span, op_ns * rows_named(trace.names, trace.ops.name[top], is_custom), size),
    )


def _sum_at(index: Ints, values: Ints, size: int) -> Ints:
    """Return the sum of the values of each index, `[size]`; index -1 is the last entry. Exact below 2**53."""
    return np.bincount(index % size, weights=values, minlength=size).astype(np.int64)
