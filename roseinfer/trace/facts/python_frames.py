"""Nest the Python functions of a trace with stacks, and choose the function that names each stretch of time."""

import re

import msgspec
import numpy as np

from roseinfer.trace.facts.data_loading_names import frame_loads_data, is_loader_library, is_plumbing
from roseinfer.trace.facts.intervals import stable_order
from roseinfer.trace.facts.name_rules import rows_named
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.reading.columns import Ints32, Trace

_PLACE = re.compile(r"^(?P<file>.+)\((?P<line>\d+)\): (?P<function>.+)$")
_WRAPPERS = re.compile(
    r"""
    ^(?:.*/)?(?: torch/nn/modules/module\.py | torch/utils/_(?:contextlib|device)\.py | torch/_dynamo/eval_frame\.py
      | torch/_tensor\.py | torch/_ops\.py | torch/autograd/(?:function|graph)\.py | torch/profiler/ )
    | ^(?:contextlib|functools|enum|typing|abc|weakref|threading|runpy|inspect)\.py\( | ^<
    """,
    re.VERBOSE,
)
"""Functions that only call others: they name no place that somebody could change."""
_COLLECTIONS = ("Python GC", "<built-in function collect>")
"""Names of collections of garbage; the first needs the profiler's option `record_python_gc_info`."""


class FrameTable(msgspec.Struct, frozen=True, eq=False):
    """Python functions of all threads and their nesting, sorted by (thread, start, longest first)."""

    forest: Forest
    thread: Ints32
    shown: Ints32
    """Per function: name of the innermost function with a file, it or one around it, that is no wrapper; else -1."""
    loading: Ints32
    """Per function: name of the function, it or one around it, that loads data; -1 for none."""

    def __len__(self) -> int:
        return len(self.thread)


def frame_table(trace: Trace) -> FrameTable:
    """Nest the Python functions of a trace. Names are indices into `trace.names`."""
    frames = trace.frames
    forest = nest(frames.start_ns, frames.end_ns, frames.thread)
    named = rows_named(trace.names, trace.frames.name, _names_a_place)
    loads = rows_named(trace.names, trace.frames.name, frame_loads_data)
    library = rows_named(trace.names, trace.frames.name, is_loader_library)
    shown = np.where(named, frames.name, -1).astype(np.int32)
    loading = np.where(loads, frames.name, -1).astype(np.int32)
    names_loading = named & ~library & ~rows_named(trace.names, trace.frames.name, is_plumbing)
    is_library = library.copy()
    by_depth = stable_order(forest.depth.astype(np.int64))
    deepest = int(forest.depth.max(initial=0))
    edges = np.searchsorted(forest.depth[by_depth], np.arange(deepest + 2))
    for level in range(1, deepest + 1):
        at = by_depth[edges[level] : edges[level + 1]]
        above = forest.parent[at]
        shown[at] = np.where(shown[at] >= 0, shown[at], shown[above])
        # The outermost function that loads data names all of it, but a library's loop says less than what it calls.
        is_called = is_library[above] & (names_loading[at] | (loads[at] & ~library[at]))
        inherit = (loading[above] >= 0) & ~is_called
        loading[at] = np.where(inherit, loading[above], np.where(is_called, frames.name[at], loading[at]))
        is_library[at] = np.where(inherit, is_library[above], is_library[at])
    return FrameTable(forest=forest, thread=frames.thread, shown=shown, loading=loading)


def is_garbage_collection(name: str) -> bool:
    """True for collections of garbage: those that the profiler records as such, and calls of `gc.collect`."""
    return name in _COLLECTIONS


def _names_a_place(name: str) -> bool:
    return is_garbage_collection(name) or (is_place(name) and not _WRAPPERS.search(name))


def is_place(name: str) -> bool:
    """True for Python functions with file and line, such as `train.py(12): load`."""
    return _PLACE.match(name) is not None


def function_of(frame: str) -> str:
    """Return the name of a Python function without its file and line."""
    found = _PLACE.match(frame)
    return found["function"] if found else frame
