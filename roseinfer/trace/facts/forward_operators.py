"""Link the GPU events of backward passes to the forward operators, by the sequence numbers that both share."""

import numpy as np

from roseinfer.trace.facts.attribution import Attribution
from roseinfer.trace.facts.backward_threads import BackwardThreads
from roseinfer.trace.facts.innermost import innermost_at
from roseinfer.trace.facts.nesting import nest
from roseinfer.trace.reading.columns import Ints, Trace


def forward_operator_names(trace: Trace, attribution: Attribution, backward: BackwardThreads) -> Ints:
    """Return, per GPU event, the name of the forward operator whose backward pass launched the event, -1 for none.

    Several nested operators may share a number; the last one begun made the node of the backward pass.
    """
    found = np.full(len(trace.gpu), -1, np.int64)
    ops = trace.numbered_ops
    back = np.flatnonzero(ops.correlation < 0)
    ahead = np.flatnonzero((ops.correlation > 0) & ~np.isin(ops.thread, backward.is_autograd))
    if len(back) == 0 or len(ahead) == 0:
        return found
    forest = nest(ops.start_ns[back], ops.end_ns[back], ops.thread[back])
    event = np.flatnonzero(np.isin(attribution.thread, ops.thread[back]) & attribution.linked)
    inside = innermost_at(forest, ops.thread[back], attribution.thread[event], attribution.launch_start_ns[event])
    event, inside = event[inside >= 0], inside[inside >= 0]
    wanted = -ops.correlation[back[inside]]
    ahead = ahead[np.lexsort((ops.start_ns[ahead], ops.correlation[ahead]))]
    last = np.searchsorted(ops.correlation[ahead], wanted, side="right") - 1
    known = (last >= 0) & (ops.correlation[ahead[last]] == wanted)
    found[event[known]] = ops.name[ahead[last[known]]]
    return found
