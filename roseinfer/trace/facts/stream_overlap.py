"""Find kernels that ran while an earlier kernel of the same stream still ran, which a stream does not allow.

Two mechanisms do allow it and are left out: graph replays, whose branches share a stream in the trace, and launch calls
with attributes, which can let a kernel start early (programmatic dependent launch).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.reading.columns import KERNEL, Ints, Trace

_SLACK_NS = 1_000
"""Overlap that clocks of AMD and NVIDIA GPUs may show between kernels that follow each other."""
_MAY_OVERLAP = ("launchkernelex", "launchkernelexc", "extlaunch", "extmodulelaunch")


class StreamOverlap(msgspec.Struct, frozen=True, eq=False):
    """Kernels that overlap an earlier kernel of their stream."""

    event: Ints
    """Index of each such kernel in the GPU table."""
    overlap_ns: Ints
    """Per kernel: time that it shares with earlier kernels."""
    checked_ns: int
    """Sum of the durations of all kernels that were checked."""


def find_overlaps(trace: Trace, attribution: Attribution) -> StreamOverlap:
    """Return the kernels that overlap, for kernels with a plain launch in the trace."""
    gpu = trace.gpu
    at = np.flatnonzero(_is_plain(trace, attribution))
    order = at[np.lexsort((gpu.start_ns[at], gpu.stream[at], gpu.device[at]))]
    if len(order) == 0:
        return StreamOverlap(order, order, 0)
    start, end = gpu.start_ns[order], gpu.end_ns[order]
    new_stream = np.ones(len(order), np.bool_)
    new_stream[1:] = (np.diff(gpu.stream[order]) != 0) | (np.diff(gpu.device[order]) != 0)
    # One running maximum over all streams: an offset per stream keeps the ends of other streams below.
    offset = (np.cumsum(new_stream) - 1) * (int(end.max()) + 1)
    reach = np.maximum.accumulate(end + offset) - offset
    overlap = np.zeros(len(order), np.int64)
    overlap[1:] = np.clip(np.minimum(reach[:-1], end[1:]) - start[1:], 0, None)
    overlap[new_stream] = 0
    late = overlap > _SLACK_NS
    return StreamOverlap(order[late], overlap[late], int((end - start).sum()))


def _is_plain(trace: Trace, attribution: Attribution) -> NDArray[np.bool_]:
    early = rows_named(trace.names, trace.calls.name, _lets_start_early)
    plain: NDArray[np.bool_] = (
        (trace.gpu.kind == KERNEL) & attribution.linked & ~attribution.replayed & ~attribution.by_graph
    )
    plain[attribution.linked] &= ~early[attribution.launch[attribution.linked]]
    return plain


def _lets_start_early(call: str) -> bool:
    return any(word in call.lower() for word in _MAY_OVERLAP)
