"""Read and explain a torch.profiler trace, and compare two traces, without importing torch.

A trace passes the stages in this order; an import contract keeps a stage from using a later one:

- `reading`: from the file to columns of numbers, with damaged traces repaired
- `facts`: how events nest, which call launched each GPU event, when a GPU was idle, where the steps are
- `findings`: figures per device, step, span and operator, and the causes of idle time
- `verdict` and `comparing`: what limits the run and what to do; what changed against another trace

`pipeline` runs the stages, `summary` holds the structs of the result. Modules are imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roseinfer.trace.comparing.trace_comparison import compare
    from roseinfer.trace.pipeline import summarize_trace
    from roseinfer.trace.summary.trace_summary import Summary

__all__ = ["Summary", "compare", "summarize_trace"]

_HOMES = {
    "Summary": "roseinfer.trace.summary.trace_summary",
    "compare": "roseinfer.trace.comparing.trace_comparison",
    "summarize_trace": "roseinfer.trace.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
