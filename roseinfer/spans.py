"""Spans: named ranges of the program, visible in traces.

`record_function` costs 4 to 12 us per call even if no profiler runs, so a span first checks whether one runs.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
import torch.autograd.profiler as _profiler


class _NullSpan:
    """A context manager that does nothing, for spans while no profiler runs."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


_NULL_SPAN = _NullSpan()


def span(name: str, label: Callable[[], str] | None = None) -> AbstractContextManager[object]:
    """Open a span named `name`, or `name[label()]`. The label is formatted only while a profiler runs."""
    if not _profiler._is_profiler_enabled:
        return _NULL_SPAN
    return _profiler.record_function(name if label is None else f"{name}[{label()}]")


def recording() -> bool:
    """True while a profiler runs."""
    return bool(_profiler._is_profiler_enabled)


def operator(name: str) -> AbstractContextManager[object]:
    """Open a range that traces and tables show as a torch operator, for work outside torch. It is cheap to enter."""
    return cast(AbstractContextManager[object], torch._C._profiler._RecordFunctionFast(name))
