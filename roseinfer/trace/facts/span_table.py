"""Build the table of spans: named ranges of the program, grouped by name without their `[...]` labels."""

import re

import msgspec
import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.facts.steps import stub_spans
from roseinfer.trace.reading.columns import Ints, Trace

_LABEL = re.compile(r"\[.*\]$", re.DOTALL)
_NUMBERED = re.compile(r"^(ProfilerStep)#\d+$")
_VLLM = re.compile(r"^execute_(?:context|new|\d+)_")
_DIGITS = re.compile(r"\d+")


class SpanTable(msgspec.Struct, frozen=True, eq=False):
    """The spans of a trace and their nesting, sorted by (thread, start, longest first)."""

    forest: Forest
    thread: NDArray[np.int32]
    """Per span: index of its thread."""
    group: NDArray[np.int32]
    """Per span: index of its name in `groups`."""
    groups: list[str]
    """Distinct span names without labels."""

    @property
    def start_ns(self) -> Ints:
        """Per span: start time in ns."""
        return self.forest.start_ns

    @property
    def end_ns(self) -> Ints:
        """Per span: end time in ns, but no later than its parent's end."""
        return self.forest.end_ns

    def __len__(self) -> int:
        return len(self.group)

    def names(self, span: Ints, without: str) -> list[str]:
        """Return the group name of each span index, and `without` for index -1."""
        groups = [*self.groups, without]
        group = np.append(self.group, len(groups) - 1)
        return [groups[index] for index in group[span].tolist()]


def group_name(name: str) -> str:
    """Return a span's name without the parts that change from call to call: its `[...]` label, a step's number."""
    plain = _LABEL.sub("", name) or name
    if _VLLM.match(plain):
        return _DIGITS.sub("N", plain)
    return _NUMBERED.sub(r"\1", plain)


def span_table(trace: Trace) -> SpanTable:
    """Return the spans of a trace, without a last ProfilerStep that the end of the recording cut off."""
    keep = np.ones(len(trace.spans), np.bool_)
    keep[stub_spans(trace)] = False
    thread = trace.spans.thread[keep]
    forest = nest(trace.spans.start_ns[keep], trace.spans.end_ns[keep], thread)
    groups: dict[str, int] = {}
    names, name_at = np.unique(trace.spans.name[keep], return_inverse=True)
    group_of = [groups.setdefault(group_name(trace.names[index]), len(groups)) for index in names.tolist()]
    group = np.array(group_of, np.int32)[name_at] if len(names) else np.zeros(0, np.int32)
    return SpanTable(forest=forest, thread=thread, group=group, groups=list(groups))
