"""Missing records are found and named with numbers, and complete traces are not suspected."""

import gzip
import json
import random
from pathlib import Path

import pytest
from missing_records import GPU, Events, completeness_of, eager, replays, summary_of, the_only, without_kernels
from traces import MATMUL, TUTORIAL, event, kernel, launch, write

from roseinfer.trace import summarize_trace
from roseinfer.trace.summary.completeness_structs import Completeness


@pytest.mark.parametrize("path", [MATMUL, TUTORIAL])
def test_recorded_traces_are_complete(path: Path) -> None:
    assert summarize_trace(path).completeness.complete


def test_a_trace_with_all_its_records_is_complete(tmp_path: Path) -> None:
    found = completeness_of(tmp_path, eager())
    assert found == Completeness(complete=True, missing=[], capture=None)


def test_launches_without_any_gpu_event_mean_that_the_gpu_was_not_recorded(tmp_path: Path) -> None:
    found = completeness_of(tmp_path, [one for one in eager() if one["cat"] not in GPU])
    assert not found.complete
    missing = the_only(found)
    assert (missing.kind, missing.count, missing.decisive) == ("gpu_not_recorded", 100, True)
    assert (missing.from_ms, missing.to_ms) == (0.01, 9.915)
    assert "100 launches but no GPU event" in missing.what


def test_operators_of_a_gpu_without_its_side_mean_that_it_was_not_recorded(tmp_path: Path) -> None:
    """With ProfilerActivity.CPU alone, the trace holds no runtime calls either."""
    events = [event("cpu_op", name, 100 * at, 50) for at in range(20) for name in ("aten::conv2d", "aten::mm")]
    assert completeness_of(tmp_path, events).complete
    inner = [event("cpu_op", "aten::cudnn_convolution", 100 * at + 5, 30) for at in range(20)]
    missing = the_only(completeness_of(tmp_path, events + inner))
    assert (missing.kind, missing.count, missing.decisive) == ("gpu_not_recorded", 20, True)
    flash = [event("cpu_op", "aten::_scaled_dot_product_flash_attention_for_cpu", 100 * at, 30) for at in range(20)]
    assert completeness_of(tmp_path, flash).complete


def test_a_missing_head_is_named_with_its_times(tmp_path: Path) -> None:
    missing = the_only(completeness_of(tmp_path, without_kernels(eager(), lambda place: place < 49)))
    assert (missing.kind, missing.count, missing.decisive) == ("gpu_head", 49, True)
    assert (missing.from_ms, missing.to_ms) == (0.01, 4.815)
    assert "the first 49 of 100 launches" in missing.what


def test_a_missing_tail_is_named_with_its_times(tmp_path: Path) -> None:
    missing = the_only(completeness_of(tmp_path, without_kernels(eager(), lambda place: place >= 70)))
    assert (missing.kind, missing.count, missing.decisive) == ("gpu_tail", 30, True)
    assert (missing.from_ms, missing.to_ms) == (7.01, 9.915)
    assert "the last 30 of 100 launches" in missing.what


def test_head_tail_and_what_is_between_are_told_apart(tmp_path: Path) -> None:
    lost = [*range(5), *range(40, 44), *range(90, 100)]
    found = completeness_of(tmp_path, without_kernels(eager(), lost.__contains__))
    kinds = {one.kind: one.count for one in found.missing}
    assert kinds == {"gpu_head": 5, "gpu_tail": 10, "launch_without_event": 4}


def test_a_tail_that_ran_after_the_recording_decides_nothing(tmp_path: Path) -> None:
    """The host runs ahead of a busy GPU, and the recording ends before the GPU has finished."""
    step = event("user_annotation", "ProfilerStep#3", 0, 5_000)
    launches = [launch(10 * index, 5, index + 1) for index in range(100)]
    work = [kernel(20 + 100 * index, 99, index + 1) for index in range(50)]
    found = completeness_of(tmp_path, [step, *launches, *work])
    assert found.complete
    missing = the_only(found)
    assert (missing.kind, missing.count, missing.decisive) == ("gpu_tail", 50, False)
    longer = {**step, "dur": 9_000}
    assert not completeness_of(tmp_path, [longer, *launches, *work]).complete


def test_a_head_during_which_the_gpu_is_seen_to_work_decides_nothing(tmp_path: Path) -> None:
    leaked = [kernel(5 + 100 * index, 99, 9_000 + index) for index in range(50)]
    found = completeness_of(tmp_path, leaked + without_kernels(eager(), lambda place: place < 50))
    assert found.complete
    assert {one.kind for one in found.missing} == {"gpu_head", "event_without_launch"}


def passes(steps: int) -> Events:
    """Return training steps that replay a forward and a backward graph, with numbers of kernels that share nothing."""
    forward = ["gemm"] * 49 + ["norm"] * 25 + ["gelu"] * 24 + ["copy"] * 7 + [f"f{one}" for one in range(9)]
    backward = ["gemm"] * 97 + ["norm_b"] * 25 + ["gelu_b"] * 24 + ["copy"] * 20 + [f"b{one}" for one in range(30)]
    made: Events = []
    for step in range(steps):
        made.append(event("user_annotation", f"ProfilerStep#{step}", 10_000 * step, 9_900))
        for place, names in enumerate((forward, backward)):
            at, correlation = 10_000 * step + 4_000 * place, 2 * step + place + 1
            made.append(launch(at + 10, 20, correlation, "cudaGraphLaunch"))
            made += [kernel(at + 40 + 10 * index, 9, correlation, name) for index, name in enumerate(names)]
    return made


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_forward_and_backward_graphs_are_not_suspected(tmp_path: Path, steps: int) -> None:
    assert completeness_of(tmp_path, passes(steps)).missing == []


def test_a_replay_that_the_end_of_the_recording_cut_off_is_no_lost_one(tmp_path: Path) -> None:
    events = replays([0] * 3)
    last = [one for one in events if one["cat"] == "kernel" and one["args"]["correlation"] == 3]
    cut = [one for one in events if one not in last[25:]]
    assert completeness_of(tmp_path, cut).missing == []
    holes = [one for one in events if one not in last[5:31:2]]
    assert not completeness_of(tmp_path, holes).complete


@pytest.mark.parametrize(
    ("lost", "noted", "complete"), [(2, False, True), (3, True, True), (9, True, True), (10, True, False)]
)
def test_few_launches_without_an_event_decide_nothing(tmp_path: Path, lost: int, noted: bool, complete: bool) -> None:
    found = completeness_of(tmp_path, without_kernels(eager(), lambda place: 40 <= place < 40 + lost))
    assert (bool(found.missing), found.complete) == (noted, complete)


def test_missing_records_are_warned_of_without_a_guess_at_the_reason(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, without_kernels(eager(), lambda place: place >= 70))
    warnings = [note.message for note in summary.trust if note.level == "warning"]
    assert any("the last 30 of 100 launches" in message for message in warnings)
    assert any("describe only what was recorded" in message for message in warnings)
    assert not any("buffer" in message for message in warnings)
    assert summary.gpu is not None
    assert summary.gpu.busy_percent > 0  # the figure stays


def test_kernels_at_the_time_0_are_named_by_their_launches(tmp_path: Path) -> None:
    events = [{**one, "ts": one["ts"] + 1.6e15} for one in eager(70)]
    for one in [one for one in events if one["cat"] == "kernel"][-20:]:
        one["ts"] = 0
    missing = the_only(completeness_of(tmp_path, events))
    assert (missing.kind, missing.count, missing.decisive) == ("impossible_times", 20, True)
    assert "all at the time 0" in missing.what
    assert "the last 20 of 70 launches" in missing.what


@pytest.mark.parametrize(("blank_us", "complete"), [(999, True), (1_000, False)])
def test_the_shortest_blank_time_that_makes_a_tail_decide(tmp_path: Path, blank_us: int, complete: bool) -> None:
    made = [event("user_annotation", "run", 0, 10_000), kernel(100, 9_900 - blank_us, 1), launch(50, 5, 1)]
    made += [launch(60 + index, 1, 2 + index) for index in range(5)]
    found = completeness_of(tmp_path, made)
    assert the_only(found).kind == "gpu_tail"
    assert found.complete == complete


def test_graph_launches_without_kernels_are_counted(tmp_path: Path) -> None:
    events = replays([0] * 10)
    lost = {3, 4, 7}
    kept = [one for one in events if one["cat"] != "kernel" or one["args"]["correlation"] - 1 not in lost]
    missing = the_only(completeness_of(tmp_path, kept))
    assert (missing.kind, missing.count, missing.decisive) == ("graph_without_kernels", 3, True)
    assert "3 of 10 graph launches" in missing.what


def test_a_clock_that_failed_for_most_events_does_not_displace_the_others(tmp_path: Path) -> None:
    events = [{**one, "ts": one["ts"] + 1.6e15} for one in eager(90)]
    for index, one in enumerate(one for one in events if one["cat"] != "cpu_op"):
        one["ts"] = 0 if index % 8 else one["ts"]
    summary = summary_of(tmp_path, events)
    assert summary.cpu.window_ms == pytest.approx(8.95, abs=0.001)  # float64 stamps are that coarse
    assert not summary.completeness.complete
    assert "157 events with impossible times, all at the time 0" in summary.completeness.missing[0].what


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("sizes", [[0] * 6, [0, 0, 1, 1, 2, 2], [0, 1, 2, 3], [0, 1, 0, 1]])
def test_graphs_of_different_sizes_are_not_suspected(tmp_path: Path, sizes: list[int], labelled: bool) -> None:
    assert completeness_of(tmp_path, replays(sizes, labelled=labelled)).missing == []


def test_piecewise_graphs_are_not_suspected(tmp_path: Path) -> None:
    """The first piece of a step has an embedding, the last one a head; those between are alike."""
    pieces = [
        ["embed", "norm", "qkv", "rope"],
        *[["o", "norm", "up", "silu", "down", "qkv"]] * 11,
        ["o", "norm", "head"],
    ]
    events: Events = []
    for step in range(3):
        for index, names in enumerate(pieces):
            at, correlation = 20_000 * step + 1000 * index, 100 * step + index + 1
            events.append(launch(at, 20, correlation, "cudaGraphLaunch"))
            events += [kernel(at + 30 + 50 * place, 40, correlation, name) for place, name in enumerate(names)]
    assert completeness_of(tmp_path, events).missing == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(
    "complete",
    [
        eager(200),
        replays([0] * 2, layers=20, kinds=10),
        replays([0] * 2, layers=20, kinds=10, labelled=True),
        replays([0] * 8, layers=4, kinds=3),
        replays([0, 0, 1, 1, 2, 2]),
        replays([0] * 12, layers=1, kinds=8),
        replays([0] * 12, layers=1, kinds=8, labelled=True),
        replays([0] * 4, layers=300, kinds=1),
        passes(3),
    ],
    ids=[
        "eager",
        "two replays",
        "labelled",
        "small",
        "three graphs",
        "no layers",
        "no layers, labelled",
        "one kernel",
        "two graphs in turn",
    ],
)
def test_a_trace_that_lost_30_percent_of_its_gpu_records_is_incomplete(
    tmp_path: Path, complete: Events, seed: int
) -> None:
    assert completeness_of(tmp_path, complete).complete
    draw = random.Random(seed)
    size = sum(one["cat"] in GPU for one in complete)
    lost = set(draw.sample(range(size), round(0.3 * size)))
    summary = summary_of(tmp_path, without_kernels(complete, lost.__contains__))
    assert not summary.completeness.complete
    assert summary.verdict.kind == "incomplete"
    assert "busy" not in " ".join([summary.verdict.headline, *summary.verdict.evidence, *summary.verdict.advice])
    assert summary.gpu is not None
    assert summary.gpu.busy_percent > 0


def test_many_replays_of_two_graphs_in_turn_are_sampled(tmp_path: Path) -> None:
    complete = passes(120)
    assert completeness_of(tmp_path, complete).missing == []
    draw = random.Random(3)
    found = completeness_of(tmp_path, without_kernels(complete, lambda place: draw.random() < 0.3))
    missing = the_only(found)
    assert (missing.kind, missing.decisive) == ("graph_replays_differ", True)
    assert missing.count <= 400


def test_a_recorded_trace_that_lost_30_percent_of_its_gpu_records_is_incomplete(tmp_path: Path) -> None:
    document = json.loads(gzip.decompress(TUTORIAL.read_bytes()))
    draw = random.Random(5)
    document["traceEvents"] = [
        one for one in document["traceEvents"] if one.get("cat") not in GPU or draw.random() >= 0.3
    ]
    path = tmp_path / "t.json"
    path.write_text(json.dumps(document))
    summary = summarize_trace(path)
    assert [one.kind for one in summary.completeness.missing] == ["launch_without_event"]
    assert summary.verdict.kind == "incomplete"


def test_kernels_that_overlap_on_a_stream_are_warned_of(tmp_path: Path) -> None:
    found = completeness_of(tmp_path, eager(each_us=120))
    missing = the_only(found)
    assert (missing.kind, missing.count) == ("overlapping_kernels", 99)
    assert "2.0 ms in total" in missing.what
    assert found.complete  # no time counts twice


def test_kernels_may_overlap_on_two_streams_in_graphs_and_with_launch_attributes(tmp_path: Path) -> None:
    events = eager(each_us=120)
    for index, one in enumerate(one for one in events if one["cat"] == "kernel"):
        one["args"]["stream"] = one["tid"] = 7 + index % 2
    assert completeness_of(tmp_path, events).missing == []
    attributes = [
        {**one, "name": "cudaLaunchKernelExC"} if one["cat"] == "cuda_runtime" else one for one in eager(each_us=120)
    ]
    assert completeness_of(tmp_path, attributes).missing == []
    graph = [launch(0, 5, 1, "cudaGraphLaunch"), *[kernel(20 + 10 * index, 15, 1) for index in range(30)]]
    assert completeness_of(tmp_path, graph).missing == []


def test_events_of_the_warm_up_without_a_launch_decide_nothing(tmp_path: Path) -> None:
    leaked = [kernel(20 * index, 18, 9000 + index) for index in range(40)]
    later = [{**one, "ts": one["ts"] + 1000} for one in eager()]
    found = completeness_of(tmp_path, leaked + later)
    missing = the_only(found)
    assert (missing.kind, missing.count) == ("event_without_launch", 40)
    assert "work of the warm-up leaked in" in missing.what
    assert found.complete


def test_a_truncated_file_decides_only_if_its_gpu_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", eager())
    text = path.read_bytes()
    path.write_bytes(text[: int(0.95 * len(text))])
    found = summarize_trace(path).completeness
    assert [one.kind for one in found.missing if not one.decisive][:1] == ["file_truncated"]
    path.write_bytes(text[: text.index(b'"cudaLaunchKernel"')])
    found = summarize_trace(path).completeness
    assert [(one.kind, one.decisive) for one in found.missing] == [("file_truncated", True)]


def test_launches_of_a_merged_trace_with_equal_ids_are_not_missing(tmp_path: Path) -> None:
    twice = eager() + [{**one, "pid": 9, "ts": one["ts"] + 3} for one in eager() if one["cat"] not in GPU]
    assert completeness_of(tmp_path, twice).complete
