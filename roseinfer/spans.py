"""Named ranges of the program, visible in traces.

`record_function` costs 4 to 12 us even while no profiler runs, so a span first asks whether one does.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
import torch.autograd.profiler as _profiler


class _NullSpan:
    """What `span` returns while nothing records: entering and leaving it do nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


_NULL_SPAN = _NullSpan()


def span(name: str, label: Callable[[], str] | None = None) -> AbstractContextManager[object]:
    """A range called `name`, or `name[label()]`; the label is formatted only while a profiler runs."""
    if not _profiler._is_profiler_enabled:
        return _NULL_SPAN
    return _profiler.record_function(name if label is None else f"{name}[{label()}]")


def recording() -> bool:
    """Whether a profiler runs."""
    return bool(_profiler._is_profiler_enabled)


def operator(name: str) -> AbstractContextManager[object]:
    """A range that traces and tables show as an operator of torch, for work that torch does not see; cheap to enter."""
    return cast(AbstractContextManager[object], torch._C._profiler._RecordFunctionFast(name))
