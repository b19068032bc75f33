"""Reading and explaining a torch.profiler trace, and comparing two. Loads no torch, and nothing until it is used."""

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
