"""Graph maps: derived from two recorded runs of a step, and used to attribute the events of replays to spans."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from traces import event, kernel, launch, write

from roseinfer.profiling.graph_maps import RUN, MappedGraph, map_graph, read_runs
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.reading.trace_manifest import Graph
from roseinfer.trace.summary.finding_structs import SpanSummary

FORWARD, ATTENTION, APPEND = "roseinfer.model.forward", "roseinfer.attention", "roseinfer.kv.append"
PREPARE, SAMPLE = "roseinfer.prepare_inputs", "roseinfer.sample"

LAYERS = 28
_LAYER = [
    ("norm", [FORWARD]),
    ("gemm", [FORWARD]),
    ("rope_append", [FORWARD, APPEND]),
    ("attend", [FORWARD, ATTENTION]),
    ("Memset (Device)", [FORWARD, ATTENTION]),
    ("reduce", [FORWARD, ATTENTION]),
    ("gemm", [FORWARD]),
]
STEP = [
    ("gather", [PREPARE]),
    ("add", [PREPARE]),
    *_LAYER * LAYERS,
    ("gemm_head", [FORWARD]),
    ("argmax", [SAMPLE]),
    ("Memcpy DtoD (Device -> Device)", [SAMPLE]),
    ("add", [SAMPLE]),
]
REPLAYED = [name.replace("(Device)", "(Unknown)") for name, _ in STEP]
"""Event names in a replay: CUPTI does not know the kind of memory that a graph's memset writes."""


class Recording:
    """Writer of a trace with consecutive spans and launches on the host, and the GPU events that they start."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.now = 100.0
        self.correlation = 0

    def launch(self, names: list[str], call: str = "cudaLaunchKernel", gap_us: float = 3) -> None:
        self.correlation += 1
        self.events.append(launch(self.now, 2, self.correlation, call))
        for index, name in enumerate(names):
            kind = {"Memcpy": "gpu_memcpy", "Memset": "gpu_memset"}.get(name.split()[0], "kernel")
            self.events.append(kernel(self.now + 5 + gap_us * index, 2, self.correlation, name, cat=kind))
        self.now += 10 + gap_us * len(names)

    def replay(self, names: list[str] = REPLAYED) -> None:
        self.launch(names, "cudaGraphLaunch")

    def open(self, name: str) -> float:
        self.now += 1
        return self.now

    def close(self, name: str, since: float) -> None:
        self.events.append(event("user_annotation", name, since, self.now - since))
        self.now += 1

    def launched(self, step: list[tuple[str, list[str]]]) -> None:
        """Record an eager step: each kernel is launched by itself, inside its spans."""
        for name, spans in step:
            since = [self.open(one) for one in spans]
            self.launch([name])
            for one, at in reversed(list(zip(spans, since, strict=True))):
                self.close(one, at)

    def write(self, path: Path) -> Path:
        return write(path, self.events)


def mapped(folder: Path, step: list[tuple[str, list[str]]] = STEP, replayed: list[str] = REPLAYED) -> MappedGraph:
    runs = []
    for replay in (False, True):
        recording = Recording()
        recording.replay(["leaked"] * 3)
        since, inner = recording.open("ProfilerStep#1"), recording.open(f"{RUN}0")
        recording.launch(["Memcpy HtoD (Pinned -> Device)"])  # uploads the inputs: not part of the graph
        if replay:
            recording.replay(replayed)
        else:
            recording.launched(step)
        recording.close(f"{RUN}0", inner)
        recording.close("ProfilerStep#1", since)
        (folder / "maps").mkdir(exist_ok=True)
        runs.append(read_runs(recording.write(folder / "maps" / "run.json"))[0])
    return map_graph("decode bs=8 greedy", *runs)


def profiled(folder: Path, graphs: list[Graph], replays: list[list[str]], steps: int = 3) -> Summary:
    """Summarize a run directory with one eager step, then steps that launch these replays."""
    recording = Recording()
    for step in range(steps + 1):
        since = recording.open("step")
        if step:
            inner = recording.open(FORWARD)
            for names in replays:
                recording.replay(names)
            recording.close(FORWARD, inner)
            inner = recording.open(SAMPLE)
            recording.launch(["Memcpy DtoH (Device -> Pinned)"])
            recording.close(SAMPLE, inner)
        else:
            recording.launched([("attend", [FORWARD, ATTENTION]), ("argmax", [SAMPLE])])
        recording.close(
            "roseinfer.step[decode bs=8 tokens=8]" if step else "roseinfer.step[prefill bs=1 tokens=4]", since
        )
    recording.write(folder / "rank0-cycle0.pt.trace.json")
    manifest = {"schema_version": 1, "graphs": graphs}
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return summarize_trace(folder)


def span_of(summary: Summary, name: str) -> SpanSummary:
    return next(span for span in summary.spans if span.name == name)


def notes(summary: Summary) -> str:
    return "\n".join(note.message for note in summary.trust)


def test_every_event_of_a_replay_gets_the_span_of_the_same_event_launched_eagerly(tmp_path: Path) -> None:
    graph, warnings = (found := mapped(tmp_path)).graph, found.warnings
    assert warnings == []
    assert [event.name for event in graph.events] == REPLAYED
    assert [event.span for event in graph.events] == [spans[-1] for _, spans in STEP]
    assert graph.parents == {ATTENTION: FORWARD, APPEND: FORWARD}


@pytest.mark.parametrize("per_launch", [1, 4])
def test_replays_are_explained_by_the_spans_they_were_captured_in(tmp_path: Path, per_launch: int) -> None:
    summary = profiled(tmp_path, [mapped(tmp_path).graph], [REPLAYED] * per_launch)
    replays = 3 * per_launch
    attention, append = span_of(summary, ATTENTION), span_of(summary, APPEND)
    assert (attention.calls, attention.gpu_events) == (replays + 1, 3 * LAYERS * replays + 1)
    assert (append.calls, append.gpu_events, append.parent) == (replays, LAYERS * replays, FORWARD)
    assert append.gpu_events_per_call == LAYERS
    # The span around the launch holds only the model's events; the step also holds the graph's other events.
    forward, step = span_of(summary, FORWARD), span_of(summary, "roseinfer.step")
    assert (forward.calls, forward.gpu_events) == (4, (7 * LAYERS + 1) * replays + 1)
    assert forward.self_gpu_events == (3 * LAYERS + 1) * replays
    assert step.gpu_events == len(STEP) * replays + 2 + 3
    assert step.self_gpu_events == 0
    # Each step has a sample span of its own: it is the call, and the replays' events are added to it.
    sample = span_of(summary, SAMPLE)
    assert (sample.calls, sample.gpu_events, sample.parent) == (4, 3 * replays + 4, "roseinfer.step")
    assert span_of(summary, PREPARE).parent == "roseinfer.step"
    assert summary.gpu is not None
    assert sum(span.self_gpu_events for span in summary.spans) == summary.gpu.gpu_events
    assert f"{len(STEP) * replays:,} GPU events of graph replays, all count for the spans" in notes(summary)


def test_an_event_of_another_name_stays_unmapped_and_is_reported(tmp_path: Path) -> None:
    others = ["merge" if name == "reduce" and index % 3 == 0 else name for index, name in enumerate(REPLAYED)]
    holes = others.count("merge")
    assert 0 < holes < 0.05 * len(STEP)
    found = mapped(tmp_path, replayed=others)
    assert [event.span is None for event in found.graph.events] == [name == "merge" for name in others]
    (warning,) = found.warnings
    assert f"{holes} of {len(STEP)} GPU events" in warning
    assert "first merge" in warning
    summary = profiled(tmp_path, [found.graph], [others])
    assert f"{3 * holes} GPU events of graph replays have no span" in notes(summary)
    assert f"{100 * (1 - holes / len(STEP)):.0f} % count for the spans they were captured under" in notes(summary)
    assert span_of(summary, ATTENTION).gpu_events == (3 * LAYERS - holes) * 3 + 1
    assert span_of(summary, FORWARD).self_gpu_events == (3 * LAYERS + 1 + holes) * 3


def test_a_replay_with_events_that_the_profiler_missed_is_reported(tmp_path: Path) -> None:
    found = mapped(tmp_path, replayed=REPLAYED[10:])
    assert "does not see all of the graph" in found.warnings[0]
    assert all(event.span for event in found.graph.events)


def test_events_of_an_unknown_replay_count_for_the_span_around_its_launch(tmp_path: Path) -> None:
    graph = mapped(tmp_path).graph
    summary = profiled(tmp_path, [graph], [REPLAYED, REPLAYED[:-5]])
    assert "3 of 6 graph replays match no graph of the manifest" in notes(summary)
    assert f"The first has {len(STEP) - 5} GPU events, the nearest graph {len(STEP)}" in notes(summary)
    assert any(note.level == "warning" for note in summary.trust)
    assert span_of(summary, APPEND).gpu_events == 3 * LAYERS
    assert span_of(summary, FORWARD).gpu_events == 3 * (7 * LAYERS + 1) + 3 * (len(STEP) - 5) + 1


def test_parallel_branches_in_another_order_still_match(tmp_path: Path) -> None:
    """Kernels of parallel branches can start in another order in each replay."""
    swapped = list(REPLAYED)
    at = swapped.index("rope_append")
    swapped[at : at + 2] = reversed(swapped[at : at + 2])
    summary = profiled(tmp_path, [mapped(tmp_path).graph], [REPLAYED, swapped])
    assert f"{len(STEP) * 6:,} GPU events of graph replays, all count for the spans" in notes(summary)
    assert span_of(summary, APPEND).gpu_events == 6 * LAYERS


def test_graphs_that_were_not_replayed_add_no_spans(tmp_path: Path) -> None:
    other = Graph(key="decode bs=1 all", events=mapped(tmp_path).graph.events[:3], parents={})
    summary = profiled(tmp_path, [other, mapped(tmp_path).graph], [REPLAYED])
    assert f"{len(STEP) * 3:,} GPU events of graph replays, all count for the spans" in notes(summary)
    assert {span.name for span in summary.spans} == {
        "roseinfer.step", FORWARD, ATTENTION, APPEND, PREPARE, SAMPLE, "(no span)"
    }  # fmt: skip
