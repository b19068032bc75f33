"""Runs that differ from the examples in names, devices or numbers get the right verdict all the same."""

from pathlib import Path
from typing import Any

import pytest
from case_traces import Timeline
from traces import event, write

from roseinfer.trace import Summary, summarize_trace

Events = list[dict[str, Any]]


def judged(tmp_path: Path, events: Events) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events, "dense"))


def text_of(summary: Summary) -> str:
    verdict = summary.verdict
    return "\n".join([verdict.headline, *verdict.evidence, *verdict.advice])


def test_several_long_waits_in_the_queue_are_named_by_the_longest(tmp_path: Path) -> None:
    trace = Timeline()
    for step in range(3):
        begin = 40_000 * step
        trace.span("step[DECODE bs=16]", begin, 40_000)
        trace.run(begin + 10, begin + 20, 10, "copy_in")
        trace.run(begin + 30, begin + 30_000 + step, 10, "resolve_future")
        replay = trace.call("cudaGraphLaunch", begin + 50, 20)
        for index in range(300):
            trace.events.append(event("kernel", "decode_kernel", begin + 30_020 + 30 * index, 29))
            trace.events[-1] |= {"pid": 0, "tid": 7, "args": {"device": 0, "stream": 7, "correlation": replay}}
    summary = judged(tmp_path, trace.events)
    assert summary.verdict.kind == "balanced"
    assert summary.verdict.headline.endswith("longest before resolve_future.")
    assert "gaps of 200 us or more; the longest is 30.0 ms, before resolve_future" in text_of(summary)
    assert "on average" not in text_of(summary)


def test_long_waits_of_a_host_without_any_launch_mean_that_the_gpu_was_not_recorded(tmp_path: Path) -> None:
    trace = Timeline()
    for step in range(10):
        trace.op("aten::linear", 5_000 * step, 400)
        trace.op("aten::item", 5_000 * step + 500, 4_000)
        trace.call("cudaStreamSynchronize", 5_000 * step + 510, 3_980)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "incomplete"
    assert "10 calls in which the host waits for a GPU but no GPU event" in verdict.headline
    short = [one | {"dur": 2} if one["cat"] == "cuda_runtime" else one for one in trace.events]
    assert judged(tmp_path, short).verdict.kind == "cpu_only"  # torch.cuda.synchronize() of a run on the CPU


@pytest.mark.parametrize("first_us", [0, 1_000, 1e9])
@pytest.mark.parametrize("is_head", [True, False])
@pytest.mark.parametrize("with_duration", [True, False])
def test_kernels_at_the_time_0_are_missing_whatever_the_clock_counts_from(
    tmp_path: Path, first_us: float, is_head: bool, with_duration: bool
) -> None:
    trace = Timeline()
    for index in range(80):
        trace.run(first_us + 20 * index + 1, first_us + 100 * index + 10, 95)
    kernels = [one for one in trace.events if one["cat"] == "kernel"]
    for one in kernels[:25] if is_head else kernels[-25:]:
        one["ts"] = 0
        one["dur"] = 95 if with_duration else 0
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "incomplete"
    edge = "first 25 of 80 launches, the head" if is_head else "last 25 of 80 launches, the tail"
    assert edge in verdict.headline


def test_a_first_kernel_at_the_time_0_is_none_that_a_failed_clock_wrote(tmp_path: Path) -> None:
    trace = Timeline()
    for index in range(40):
        trace.run(20 * index, 100 * index, 99)
    assert judged(tmp_path, trace.events).completeness.complete


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("CopyHostToDevice", "Copy the next step's data"),
        ("Memcpy M2D", "Copy the next step's data"),
        ("CopyDeviceToHost", "Keep the data on the device"),
        ("Memcpy PtoP (Device -> Device)", "Overlap Memcpy PtoP"),
        ("Memcpy DtoD (Device -> Device)", "write in place"),
    ],
)
def test_advice_on_copies_follows_their_direction(tmp_path: Path, name: str, advice: str) -> None:
    trace = Timeline()
    for step in range(4):
        begin = 20_000 * step
        trace.copy(begin, begin + 20, 9_000, name)
        trace.run(begin + 30, begin + 9_025, 10_990)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "copy_bound"
    assert advice in verdict.advice[0]


def test_a_data_loader_is_named_by_the_program_s_function_that_it_calls(tmp_path: Path) -> None:
    trace = Timeline()
    for step in range(4):
        begin = 20_000 * step
        frames = {
            "train.py(80): main": (1, 19_990),
            "torch/utils/data/dataloader.py(701): __next__": (10, 12_000),
            "torch/utils/data/_utils/fetch.py(52): fetch": (12, 11_990),
            "corpus.py(31): __getitem__": (20, 11_900),
            "<built-in function loads>": (30, 11_000),
        }
        for name, (at, us) in frames.items():
            trace.span(name, begin + at, us, "python_function")
        trace.run(begin + 12_100, begin + 12_110, 7_880)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "data_bound"
    assert "corpus.py(31): __getitem__" in verdict.headline


def test_a_data_loader_that_waits_for_its_workers_is_named_itself(tmp_path: Path) -> None:
    trace = Timeline()
    for step in range(4):
        begin = 20_000 * step
        trace.span("torch/utils/data/dataloader.py(701): __next__", begin + 10, 12_000, "python_function")
        trace.span("queue.py(154): get", begin + 12, 11_990, "python_function")
        trace.span("threading.py(320): wait", begin + 14, 11_980, "python_function")
        trace.run(begin + 12_100, begin + 12_110, 7_880)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "data_bound"
    assert "torch/utils/data/dataloader.py(701): __next__" in verdict.headline


def launched_one_by_one(operators: dict[str, int], steps: int = 4) -> Events:
    """Steps without spans in which each operator takes some us to launch one short kernel, 25 times each."""
    trace = Timeline()
    at = 0
    for step in range(steps):
        begin = at
        for index in range(25 * len(operators)):
            name, us = list(operators.items())[index % len(operators)]
            trace.op(name, at, us)
            trace.run(at + us - 12, at + us - 4, 3, f"gemm_{(index * index) % 7}", call_us=6)
            at += us + 1
        trace.span(f"ProfilerStep#{step}", begin, at - begin)
    return trace.events


def test_launches_without_spans_are_named_by_their_operator(tmp_path: Path) -> None:
    summary = judged(tmp_path, launched_one_by_one({"aten::add": 150}))
    assert summary.verdict.kind == "host_bound"
    assert "one launch to the next" in summary.verdict.headline
    assert summary.verdict.headline.endswith("longest in aten::add).")
    assert "start with ProfilerStep" not in text_of(summary)


def test_an_operator_is_not_called_most_of_what_it_is_a_part_of(tmp_path: Path) -> None:
    summary = judged(tmp_path, launched_one_by_one({"aten::add": 60, "aten::mul": 62, "aten::neg": 61}))
    assert summary.verdict.kind == "host_bound"
    assert "longest in" not in summary.verdict.headline
    assert "in aten::mul" in text_of(summary)  # the largest, with its time


def test_a_collective_is_called_most_of_the_communication_only_if_it_is(tmp_path: Path) -> None:
    trace = Timeline()
    names = (
        "ncclDevKernel_AllGather_RING_LL",
        "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL",
        "ncclDevKernel_SendRecv",
    )
    for step in range(3):
        begin = 30_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 30_000)
        trace.run(begin, begin + 10, 12_000)
        for index, name in enumerate(names):
            us = 6_000 + 100 * index
            trace.run(begin + 20 + index, begin + 12_010 + 5_900 * index, us - 300, name, stream=20)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "communication_bound"
    assert verdict.headline.endswith("longest in ncclDevKernel_SendRecv.")


@pytest.mark.parametrize(("name", "kind"), [("load_batch", "data_bound"), ("gloo:all_reduce", "communication_bound")])
def test_a_cpu_run_is_named_by_its_cause_although_an_operator_takes_longer(
    tmp_path: Path, name: str, kind: str
) -> None:
    trace = Timeline()
    for step in range(4):
        begin = 50_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 49_990)
        trace.span(name, begin + 5, 20_000)
        for index in range(10):
            trace.op("aten::addmm", begin + 20_100 + 2_980 * index, 2_900)
    summary = judged(tmp_path, trace.events)
    assert summary.verdict.kind == kind
    assert summary.verdict.headline.endswith(f"longest in {name}.")
    assert name in summary.verdict.advice[0]
    assert summary.findings[0].share_percent == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize(
    ("warm_ups", "replays", "kind"), [(1, 0, "capture"), (2, 0, "capture"), (3, 0, "host_bound"), (1, 3, "host_bound")]
)
def test_captures_that_follow_warm_ups_are_no_run_to_judge(
    tmp_path: Path, warm_ups: int, replays: int, kind: str
) -> None:
    """Engines run each graph eagerly once or twice before they capture it."""
    trace = Timeline()
    at = 0
    for _ in range(4):
        for index in range(60 * warm_ups):
            trace.run(at + 60 * index, at + 60 * index + 10, 20)
        at += 60 * 60 * warm_ups
        trace.call("cudaStreamBeginCapture", at, 5)
        for index in range(60):
            trace.call("cudaLaunchKernel", at + 10 + 20 * index, 5)
        trace.call("cudaStreamEndCapture", at + 1300, 50)
        at += 1400
        for _ in range(replays):
            replay = trace.call("cudaGraphLaunch", at, 20)
            for index in range(60):
                trace.events.append(event("kernel", "decode_kernel", at + 40 + 20 * index, 19))
                trace.events[-1] |= {"pid": 0, "tid": 7, "args": {"device": 0, "stream": 7, "correlation": replay}}
            at += 1300
    assert judged(tmp_path, trace.events).verdict.kind == kind


@pytest.mark.parametrize("call", ["cuModuleLoadData", "cudaGraphInstantiate", "cudaHostAlloc", "hipMalloc"])
def test_a_slow_runtime_call_without_an_operator_is_named(tmp_path: Path, call: str) -> None:
    trace = Timeline()
    for step in range(3):
        begin = 20_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 20_000)
        trace.call(call, begin + 5, 9_000)
        for index in range(10):
            trace.run(begin + 9_100 + 10 * index, begin + 9_200 + 1_070 * index, 1_069)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "host_bound"
    assert f"start with {call} in ProfilerStep" in verdict.headline
    assert call in verdict.advice[0]


def test_a_copy_that_the_driver_stages_is_advised_to_be_pinned(tmp_path: Path) -> None:
    trace = Timeline()
    for step in range(4):
        begin = 42_000 * step
        trace.span(f"ProfilerStep#{step}", begin, 42_000)
        trace.op("aten::copy_", begin, 30_000)
        trace.copy(begin + 5, begin + 20_000, 9_900, "Memcpy HtoD (Pageable -> Device)")
        trace.events[-2]["dur"] = 29_990
        trace.run(begin + 30_010, begin + 30_020, 11_900)
    verdict = judged(tmp_path, trace.events).verdict
    assert verdict.kind == "host_bound"
    assert verdict.advice[0].startswith("Pin the host's memory: cudaMemcpyAsync (called by aten::copy_")
