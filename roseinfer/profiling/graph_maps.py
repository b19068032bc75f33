"""Which span each GPU event of a replayed graph was captured under.

Spans inside captured code do not run on a replay. The same step launched one by one does run them, and on one stream
its order is the order of capture: laid beside the events of a replay and compared by name, it says where each of those
comes from. The manifest takes the result to whoever reads the traces.
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
"""Begins the name of the span around each run of a step; the run's number follows."""

_SCHEDULE = ProfileConfig(wait=0, warmup=1, active=1)
_TRANSFER = re.compile(r"(Memcpy|Memset) ")


class StepEvents(msgspec.Struct):
    """The GPU events of one run of a step, in order."""

    events: list[GraphEvent] = msgspec.field(default_factory=list)
    parents: dict[str, str] = msgspec.field(default_factory=dict)
    """The span that each of the events' spans was in, none for the outermost."""


class MappedGraph(msgspec.Struct, frozen=True):
    """A graph's map, and what there is to say against it."""

    graph: Graph
    warnings: list[str]


class GraphMaps:
    """The maps of an engine's graphs, made between its requests."""

    def __init__(self, graphs: StepGraphs, device: torch.device) -> None:
        self._graphs = graphs
        self._device = device
        self._made: dict[GraphKey, MappedGraph] = {}
        self._failures: list[str] = []

    def make(self) -> None:
        """Map the graphs that have been captured and have no map yet.

        The first time, this is where the process first touches a profiler: graphs captured before are captured again.
        No other profiler may be at work.
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
        """GPU events of the longest replay that has a map."""
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

    def _record(self, keys: Sequence[GraphKey], *, replay: bool) -> list[StepEvents]:
        with tempfile.TemporaryDirectory() as folder:
            with Recorder(_SCHEDULE, self._device, Path(folder)) as recorder:
                recorder.begin_step()
                self._graphs.rehearse(keys[0], replay=replay)
                recorder.end_step()
                recorder.begin_step()
                self._graphs.rehearse(keys[0], replay=replay)  # the first events of a session may be lost
                for number, key in enumerate(keys):
                    with span(f"{RUN}{number}"):
                        self._graphs.rehearse(key, replay=replay)
                recorder.end_step()
            runs = read_runs(Path(folder) / recorder.cycles[0].trace)
        return [runs.get(number, StepEvents()) for number in range(len(keys))]


def read_runs(path: Path) -> dict[int, StepEvents]:
    """The GPU events of each run in a trace, by the run's number, under the spans that `summarize` finds for them.

    What a run launches outside of spans prepares its step, unless it is a replay, which has none inside.
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
    """The events of a replay under the spans of the same step launched one by one.

    Events without a counterpart of their name keep no span.
    """
    events = [GraphEvent(event.name) for event in replayed.events]
    ours = [_comparable(event.name) for event in events]
    theirs = [_comparable(event.name) for event in launched.events]
    for at, start, size in SequenceMatcher(None, theirs, ours, autojunk=False).get_matching_blocks():
        for offset in range(size):
            name, own = events[start + offset].name, launched.events[at + offset].span
            events[start + offset] = GraphEvent(name, own)
    warnings: list[str] = []
    if len(ours) < len(theirs):
        warnings.append(
            f"graph {key}: the profiler shows {len(ours)} GPU events of a replay, but {len(theirs)} of the same step "
            "launched one by one: it does not see all of the graph"
        )
    if holes := [event.name for event in events if event.span is None]:
        warnings.append(
            f"graph {key}: {len(holes)} of {len(events)} GPU events of a replay have no counterpart in the same step "
            f"launched one by one, first {holes[0]}: they count for the span around the replay"
        )
    return MappedGraph(Graph(key=key, events=events, parents=launched.parents), warnings)


def _comparable(name: str) -> str:
    """The name; of transfers without the kinds of memory, which are not always known in a replay."""
    transfer = _TRANSFER.match(name)
    return transfer.group(1) if transfer else name
