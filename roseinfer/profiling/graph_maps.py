"""Map each GPU event of a CUDA graph replay to the span that it was captured under.

A replay does not run the Python code of the captured step, so its trace has no spans inside. The same step, launched
kernel by kernel, does run the spans, and on one stream its kernels run in the order of capture. Aligning both event
lists by name gives the span of each replayed event. The manifest stores the map for the readers of the traces.
"""

import re
import tempfile
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import msgspec
import torch

from roseinfer.config import ProfileConfig
from roseinfer.engine.graph_sizes import GraphKey
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.errors import RoseinferError
from roseinfer.profiling.recorder import Recorder
from roseinfer.spans import span
from roseinfer.trace.facts.attribution import attribute
from roseinfer.trace.facts.span_table import span_table
from roseinfer.trace.reading.trace_manifest import Graph, GraphEvent
from roseinfer.trace.reading.trace_reader import read_trace

RUN = "graph run "
"""Prefix of the span around each run of a step; the run's number follows."""

_SCHEDULE = ProfileConfig(wait=0, warmup=1, active=1)
_TRANSFER = re.compile(r"(Memcpy|Memset) ")


class StepEvents(msgspec.Struct):
    """GPU events of one run of a step, in order."""

    events: list[GraphEvent] = msgspec.field(default_factory=list)
    parents: dict[str, str] = msgspec.field(default_factory=dict)
    """Parent span of each span in `events`. Outermost spans have no entry."""


class MappedGraph(msgspec.Struct, frozen=True):
    """Map of one graph, with warnings about events that could not be mapped."""

    graph: Graph
    warnings: list[str]


class GraphMaps:
    """Maps from the GPU events of each CUDA graph to spans, built while the engine runs no requests."""

    def __init__(self, graphs: StepGraphs, device: torch.device) -> None:
        self._graphs = graphs
        self._device = device
        self._made: dict[GraphKey, MappedGraph] = {}
        self._failures: list[str] = []

    def make(self) -> None:
        """Map the captured graphs that have no map yet. No other profiler may be active.

        The first call also starts the process's first profiler. Graphs captured before that are captured again.
        """
        keys = [key for key in self._graphs.captured if key not in self._made]
        if not keys:
            return
        try:
            launched = self._record(keys, replay=False)
            if not self._made:
                self._graphs.capture_again()
            replayed = self._record(keys, replay=True)
        except (RoseinferError, OSError) as error:
            self._failures.append(f"graph replays could not be mapped to spans: {error}")
            return
        for key, one, other in zip(keys, launched, replayed, strict=True):
            self._made[key] = map_graph(str(key), one, other)

    @property
    def most_events(self) -> int:
        """Largest number of GPU events in a mapped graph."""
        return max((len(mapped.graph.events) for mapped in self._made.values()), default=0)

    def replayed_by(self, keys: Iterable[GraphKey | None]) -> tuple[list[Graph], list[str]]:
        """Return the maps of the graphs that steps with these keys replayed, and warnings about gaps in them."""
        captured = self._graphs.captured
        replayed = dict.fromkeys(key for key in keys if key in captured)
        made = [self._made[key] for key in replayed if key in self._made]
        warnings = [*self._failures, *(warning for mapped in made for warning in mapped.warnings)]
        if len(made) < len(replayed) and not self._failures:
            warnings.append(f"{len(replayed) - len(made)} graphs were captured during the recording and have no map")
        return [mapped.graph for mapped in made if mapped.graph.events], warnings

    def all_maps(self) -> tuple[list[Graph], list[str]]:
        """Return the maps of all captured graphs, and warnings about gaps in them."""
        return self.replayed_by(self._graphs.captured)

    def _record(self, keys: Sequence[GraphKey], *, replay: bool) -> list[StepEvents]:
        with tempfile.TemporaryDirectory() as folder:
            with Recorder(_SCHEDULE, self._device, Path(folder)) as recorder:
                recorder.begin_step()
                self._graphs.rehearse(keys[0], replay=replay)
                recorder.end_step()
                recorder.begin_step()
                self._graphs.rehearse(keys[0], replay=replay)  # the first events of a session may be missing
                for number, key in enumerate(keys):
                    with span(f"{RUN}{number}"):
                        self._graphs.rehearse(key, replay=replay)
                recorder.end_step()
            runs = read_runs(Path(folder) / recorder.cycles[0].trace)
        return [runs.get(number, StepEvents()) for number in range(len(keys))]


def read_runs(path: Path) -> dict[int, StepEvents]:
    """Return {number of the run: GPU events} of a trace, each event with the span that `summarize` attributes it to.

    Events launched outside spans only prepare the step and are dropped. Events of a replay have no span and are kept.
    """
    trace = read_trace(path)
    spans = span_table(trace)
    attribution = attribute(trace, spans)
    parent, group = spans.forest.parent.tolist(), spans.group.tolist()
    runs: dict[int, StepEvents] = {}
    columns = (trace.gpu.name, attribution.span, attribution.replayed)
    for name, innermost, is_replayed in zip(*(column.tolist() for column in columns), strict=True):
        chain: list[str] = []
        at = innermost
        while at >= 0 and not spans.groups[group[at]].startswith(RUN):
            chain.append(spans.groups[group[at]])
            at = parent[at]
        if at < 0 or not (chain or is_replayed):
            continue
        run = runs.setdefault(int(spans.groups[group[at]].removeprefix(RUN)), StepEvents())
        run.events.append(GraphEvent(trace.names[name], chain[0] if chain else None))
        run.parents |= dict(pairwise(chain))
    return runs


def map_graph(key: str, launched: StepEvents, replayed: StepEvents) -> MappedGraph:
    """Return the events of a replay with the spans of the same step launched kernel by kernel.

    An event that has no counterpart of the same name has no span.
    """
    events = [GraphEvent(event.name) for event in replayed.events]
    replayed_names = [_comparable(event.name) for event in events]
    launched_names = [_comparable(event.name) for event in launched.events]
    for at, start, size in SequenceMatcher(None, launched_names, replayed_names, autojunk=False).get_matching_blocks():
        for offset in range(size):
            name, own = events[start + offset].name, launched.events[at + offset].span
            events[start + offset] = GraphEvent(name, own)
    warnings: list[str] = []
    if len(replayed_names) < len(launched_names):
        warnings.append(
            f"graph {key}: the profiler shows {len(replayed_names)} GPU events of a replay, but {len(launched_names)} "
            "of the same step launched kernel by kernel: it does not see all of the graph"
        )
    if unmapped := [event.name for event in events if event.span is None]:
        warnings.append(
            f"graph {key}: {len(unmapped)} of {len(events)} GPU events of a replay have no counterpart in the same "
            f"step launched kernel by kernel, first {unmapped[0]}: they count for the span around the replay"
        )
    return MappedGraph(Graph(key=key, events=events, parents=launched.parents), warnings)


def _comparable(name: str) -> str:
    """Return the event's name, without the memory kinds of a copy: a replay does not always report them."""
    transfer = _TRANSFER.match(name)
    return transfer.group(1) if transfer else name
