"""Maps of CUDA graphs without a GPU: the order of runs, new captures and replays."""

from pathlib import Path
from typing import Any

import pytest
import torch

import roseinfer.profiling.graph_maps as graph_maps
from roseinfer.engine.graph_sizes import GraphKey
from roseinfer.errors import RoseinferError
from roseinfer.profiling.graph_maps import GraphMaps, StepEvents
from roseinfer.spans import span
from roseinfer.trace.reading.trace_manifest import GraphEvent


class ScriptedGraphs:
    """Stands in for an engine's graphs and records the calls."""

    def __init__(self, *captured: GraphKey) -> None:
        self.captured = list(captured)
        self.calls: list[Any] = []

    def capture_again(self) -> None:
        self.calls.append("capture")

    def rehearse(self, key: GraphKey, *, replay: bool) -> None:
        self.calls.append(("replay" if replay else "run", key))
        with span("roseinfer.sample"):
            torch.ones(1).add_(1)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report one GPU event per run, since a CPU records none."""
    read = graph_maps.read_runs

    def read_runs(path: Path) -> dict[int, StepEvents]:
        assert read(path) == {}
        return {run: StepEvents([GraphEvent(f"k{run}", "roseinfer.sample")]) for run in range(4)}

    monkeypatch.setattr(graph_maps, "read_runs", read_runs)


def maps_of(graphs: ScriptedGraphs) -> GraphMaps:
    return GraphMaps(graphs, torch.device("cpu"))  # type: ignore[arg-type]


def test_graphs_are_captured_again_between_the_first_session_and_the_first_replay(events: None) -> None:
    graphs = ScriptedGraphs(GraphKey(1, "greedy"), GraphKey(4, "all"))
    maps = maps_of(graphs)
    maps.make()
    kinds = [call if call == "capture" else call[0] for call in graphs.calls]
    assert kinds == ["run"] * 4 + ["capture"] + ["replay"] * 4
    assert {call[1] for call in graphs.calls if call != "capture"} == set(graphs.captured)
    maps.make()
    assert len(graphs.calls) == 9, "a graph with a map is not run again"


def test_only_graphs_that_were_replayed_are_kept_and_later_ones_get_a_map_too(events: None) -> None:
    graphs = ScriptedGraphs(GraphKey(1, "greedy"), GraphKey(4, "all"))
    maps = maps_of(graphs)
    maps.make()
    keys = [None, GraphKey(4, "all"), GraphKey(8, "all"), GraphKey(4, "all")]
    graphs.captured.append(GraphKey(8, "all"))
    found, warnings = maps.replayed_by(keys)
    assert [graph.key for graph in found] == ["decode bs=4 all"]
    assert warnings == ["1 graphs were captured during the recording and have no map"]
    maps.make()
    found, warnings = maps.replayed_by(keys)
    assert [graph.key for graph in found] == ["decode bs=4 all", "decode bs=8 all"]
    assert warnings == []
    assert graphs.calls.count("capture") == 1


def test_without_gpu_events_there_is_no_map(tmp_path: Path) -> None:
    maps = maps_of(ScriptedGraphs(GraphKey(1, "greedy")))
    maps.make()
    keys = [GraphKey(1, "greedy")]
    assert maps.replayed_by(keys) == ([], [])


def test_a_failure_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise RoseinferError("the disk is full")

    monkeypatch.setattr(graph_maps, "read_runs", fail)
    maps = maps_of(ScriptedGraphs(GraphKey(1, "greedy")))
    maps.make()
    keys = [GraphKey(1, "greedy")]
    assert maps.replayed_by(keys) == ([], ["graph replays could not be mapped to spans: the disk is full"])
