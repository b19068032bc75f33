"""Top operators on the CPU and top kernels on the GPU."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.forward_operators import forward_operator_names
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.finding_structs import OpSummary
from roseinfer.trace.summary.units import to_ms, to_percent


def summarize_ops(facts: Facts) -> list[OpSummary]:
    """Return one row per operator, then one row per kernel, memcpy or memset name, each sorted by self time.

    An operator's self time leaves out the operators that it calls. Its total time counts recursive calls once.
    """
    trace, forest = facts.trace, facts.ops
    total = (forest.end_ns - forest.start_ns) * forest.outermost(trace.ops.name)
    durations = trace.gpu.end_ns - trace.gpu.start_ns
    forward = forward_operator_names(trace, facts.attribution, facts.backward)
    size = len(trace.names)
    backward = np.bincount(forward[forward >= 0], weights=durations[forward >= 0], minlength=size)
    return [
        *_rows(trace.names, "cpu", trace.ops.name, total, forest.self_ns, backward),
        *_rows(trace.names, "gpu", trace.gpu.name, durations, durations, np.zeros(size)),
    ]


def _rows(
    names: list[str],
    device: Literal["cpu", "gpu"],
    name: NDArray[np.int32],
    total_ns: Ints,
    self_ns: Ints,
    backward_ns: NDArray[np.float64] | Ints,
) -> list[OpSummary]:
    calls = np.bincount(name, minlength=len(names))
    totals = np.bincount(name, weights=total_ns, minlength=len(names))
    selves = np.bincount(name, weights=self_ns, minlength=len(names))
    all_self = selves.sum()
    order = [index for index in np.argsort(-selves, kind="stable").tolist() if calls[index]]
    return [
        OpSummary(
            name=names[index],
            device=device,
            calls=int(calls[index]),
            total_ms=to_ms(totals[index]),
            self_ms=to_ms(selves[index]),
            percent=to_percent(selves[index], all_self),
            backward_gpu_ms=to_ms(backward_ns[index]),
        )
        for index in order
    ]
