"""Find the main thread of each file: what it does explains the time that no launch explains."""

import numpy as np

from roseinfer.trace.facts.attribution import LaunchCalls
from roseinfer.trace.facts.nesting import Forest
from roseinfer.trace.facts.steps import Steps
from roseinfer.trace.reading.columns import Ints32, Trace


def find_main_threads(trace: Trace, steps: Steps, autograd: list[int], ops: Forest, launches: LaunchCalls) -> Ints32:
    """Return the main thread of each file, -1 for none; it waits for the file's backward passes.

    The main thread is not one of `autograd`'s. It runs the file's last step; without steps, it launches most of the GPU
    events; without launches, it spends the most time in operators, or else in spans.
    """
    files = np.array(trace.thread_files, np.int32)
    main = np.full(len(trace.file_ranks), -1, np.int32)
    top, spans = ops.depth == 0, trace.spans
    weights = (
        np.bincount(trace.calls.thread[launches.call[launches.call >= 0]], minlength=len(files)),
        np.bincount(trace.ops.thread[top], (ops.end_ns - ops.start_ns)[top], minlength=len(files)),
        np.bincount(spans.thread, spans.end_ns - spans.start_ns, minlength=len(files)),
    )
    for file in range(len(main)):
        mine = np.setdiff1d(np.flatnonzero(files == file), autograd)
        for weight in weights:
            if main[file] < 0 and len(mine) and weight[mine].max() > 0:
                main[file] = mine[np.argmax(weight[mine])]
    for thread in steps.thread.tolist():
        main[files[thread]] = thread
    return main
