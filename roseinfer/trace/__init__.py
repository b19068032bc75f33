"""Reading and explaining a torch.profiler trace, and comparing two. Loads no torch, and nothing until it is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roseinfer.trace.analyze import summarize_trace
    from roseinfer.trace.comparison import compare
    from roseinfer.trace.summary import Summary

__all__ = ["Summary", "compare", "summarize_trace"]

_HOMES = {
    "Summary": "roseinfer.trace.summary",
    "compare": "roseinfer.trace.comparison",
    "summarize_trace": "roseinfer.trace.analyze",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
