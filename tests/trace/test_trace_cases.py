"""Each kind of run gets its verdict, with figures that follow from the times in the trace."""

import json
from pathlib import Path
from typing import Any

import case_traces as cases
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from traces import event, kernel, launch, write

from roseinfer.errors import UsageError
from roseinfer.trace import Summary, compare, summarize_trace


def judged(tmp_path: Path, events: list[dict[str, Any]]) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events, "dense"))


def text_of(summary: Summary) -> str:
    verdict = summary.verdict
    return "\n".join([verdict.headline, *verdict.evidence, *verdict.advice])


@pytest.mark.parametrize("kind", [kind for kind in cases.EXAMPLES if kind != "empty"])
def test_each_kind_of_run_is_recognized(tmp_path: Path, kind: str) -> None:
    verdict = judged(tmp_path, cases.EXAMPLES[kind]()).verdict
    assert verdict.kind == kind
    assert verdict.advice


def test_host_time_before_the_first_kernel_counts(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.slow_operator())
    assert summary.gpu is not None
    assert summary.gpu.busy_percent == 100.0  # of the window between the first and the last GPU event
    assert summary.verdict.kind == "host_bound"
    assert "busy 40.0 % of the time" in summary.verdict.headline
    assert "aten::upsample" in summary.verdict.headline
    assert "aten::upsample" in summary.verdict.advice[0]
    assert "24.0 ms of that pass before its first event" in summary.verdict.evidence[0]
    assert summary.findings[0].where.operator == "aten::upsample"
    assert summary.findings[0].share_percent == pytest.approx(57.5, abs=0.2)


@pytest.mark.parametrize(
    ("events", "name", "share"),
    [
        (cases.data_loader(), "_SingleProcessDataLoaderIter.__next__", 60),
        (cases.data_loader("dataloader_wait"), "dataloader_wait", 60),
        (cases.data_function(), "load_and_resize", 60),
    ],
)
def test_data_loading_is_named_first(tmp_path: Path, events: list[dict[str, Any]], name: str, share: float) -> None:
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "data_bound"
    assert name in summary.verdict.headline
    assert name in summary.verdict.advice[0]
    assert summary.findings[0].kind == "data"
    assert summary.findings[0].share_percent == pytest.approx(share, abs=0.5)
    assert "CUDA graph" not in text_of(summary)


def test_a_wait_that_costs_the_gpu_nothing_is_no_finding(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.busy())
    assert summary.syncs[0].ms == pytest.approx(4 * 8.88)
    assert [finding.id for finding in summary.findings] == ["largest_kernel"]
    assert "cudaStreamSynchronize" not in text_of(summary)


def test_a_wait_that_leaves_the_gpu_idle_is_named_with_its_cost(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    for step in range(4):
        begin = 1000 * step
        events.append(event("user_annotation", f"ProfilerStep#{step}", begin, 1000))
        events += [launch(begin + 5, 5, step + 1), kernel(begin + 15, 485, step + 1)]
        events.append(event("cpu_op", "aten::nonzero", begin + 20, 970))
        events.append(event("cuda_runtime", "cudaStreamSynchronize", begin + 25, 960))
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "host_bound"
    first = summary.findings[0]
    assert (first.id, first.where.operator) == ("synchronizing_call", "aten::nonzero")
    assert first.saves_ms == pytest.approx(4 * 0.485, abs=0.01)
    assert "size of the result" in summary.verdict.advice[0]


def test_allocation_calls_are_named(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    for step in range(4):
        begin = 1000 * step
        events.append(event("user_annotation", f"ProfilerStep#{step}", begin, 1000))
        events.append(event("cpu_op", "aten::empty", begin, 420))
        events.append(event("cuda_runtime", "cudaMalloc", begin + 5, 400))
        events += [launch(begin + 430, 5, step + 1), kernel(begin + 440, 560, step + 1)]
    first = judged(tmp_path, events).findings[0]
    assert first.id == "allocation"
    assert "cudaMalloc" in first.sentence
    assert "PYTORCH_CUDA_ALLOC_CONF" in first.advice


def test_exposed_communication_decides_although_the_gpu_is_busy(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.exposed_all_reduce())
    assert summary.gpu is not None
    assert summary.gpu.busy_percent > 95
    assert summary.verdict.kind == "communication_bound"
    assert "60.0 %" in summary.verdict.headline
    assert "AllReduce" in summary.verdict.headline
    assert "buckets" in summary.verdict.advice[0]  # a backward pass makes it a training run
    assert "Healthy" not in text_of(summary)


def test_communication_that_runs_beside_kernels_costs_nothing(tmp_path: Path) -> None:
    events = [launch(0, 1, 1), launch(2, 1, 2), kernel(5, 1000, 1)]
    events.append(kernel(10, 900, 2, "ncclDevKernel_AllGather_RING_LL", stream=20))
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "gpu_bound"
    assert not any(finding.kind == "communication" for finding in summary.findings)


def test_many_tiny_collectives_are_advised_to_be_bucketed(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.many_collectives())
    assert "Bucket the collectives" in text_of(summary)
    assert "40 times per step, 12.0 us each" in text_of(summary)
    assert "fuse it with the kernels around it" in text_of(summary)  # layers of a decode step depend on each other


def test_exposed_copies_are_named_with_their_operator(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.exposed_copies())
    assert "45.0 % of the time is exposed copies" in summary.verdict.headline
    assert "non_blocking=True" in summary.verdict.advice[0]
    assert summary.findings[0].where.operator == "aten::copy_"
    assert summary.findings[0].sentence.endswith("runs nothing else during 36.0 ms, 45 % of the time.")


def test_one_long_wait_in_the_queue_is_named_by_the_kernel_after_it(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.late_in_queue())
    assert "before resolve_future" in summary.verdict.headline
    assert "inside replays" not in text_of(summary)
    assert summary.findings[0].where.kernel == "resolve_future"


def test_gloo_on_cpus_is_communication(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.gloo())
    assert summary.verdict.kind == "communication_bound"
    assert "95.0 %" in summary.verdict.headline
    assert "95.0 ms in 5 runs" in text_of(summary)
    assert "quantized" not in text_of(summary)


def test_a_loop_outside_operators_is_not_told_of_its_largest_operator(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.cpu_loop())
    assert "58 % is outside them" in summary.verdict.headline
    assert "plan_batch" in summary.verdict.headline
    assert not any("Speed up aten::mm" in line for line in summary.verdict.advice)


def test_a_training_run_is_not_advised_like_a_language_model(tmp_path: Path) -> None:
    events = [event("user_annotation", "ProfilerStep#1", 0, 1000), event("cpu_op", "aten::mm", 0, 600)]
    events.append(event("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 600, 390))
    text = text_of(judged(tmp_path, events))
    assert "aten::mm" in text
    assert "quantized" not in text
    assert "larger batch" not in text


@pytest.mark.parametrize("events", [cases.blind_wait(), cases.capture()])
def test_a_trace_without_a_verdict_names_no_share_and_fails_a_limit(
    tmp_path: Path, events: list[dict[str, Any]]
) -> None:
    summary = judged(tmp_path, events)
    assert summary.findings == []
    assert summary.what_if == []
    assert "busy" not in text_of(summary)
    assert "%" not in text_of(summary)
    assert summary.gpu is not None  # the figures stay in the JSON
    compare(summary, summary)
    with pytest.raises(UsageError, match="--fail-above needs complete traces"):
        compare(summary, summary, 5.0)


def test_launches_without_gpu_events_get_no_cpu_advice(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    for index in range(50):
        events += [event("cpu_op", "aten::conv2d", 100 * index, 80), launch(100 * index + 10, 5, index + 1)]
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "incomplete"
    assert "GPU" in summary.verdict.headline
    assert "not recorded" in summary.verdict.headline
    assert "aten::conv2d" not in text_of(summary)


def test_time_before_the_first_event_does_not_count_if_the_device_may_have_worked(tmp_path: Path) -> None:
    events = [event("user_annotation", "ProfilerStep#1", 0, 2000)]
    for index in range(10):
        events += [launch(5 + 10 * index, 4, index + 1), kernel(1000 + 100 * index, 100, index + 1)]
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "gpu_bound"
    assert "of the time (1.0 ms before its first event left out)" in summary.verdict.headline
    assert any("before the first event of the GPU do not count" in line for line in summary.verdict.evidence)


def test_a_host_much_slower_than_the_queue_is_late_for_the_first_event(tmp_path: Path) -> None:
    summary = judged(tmp_path, cases.slow_operator(queue_us=3_000))
    assert summary.verdict.kind == "host_bound"
    assert summary.findings[0].where.operator == "aten::upsample"
    assert summary.findings[0].saves_ms == 23.0
    assert "launch is not in the trace" not in text_of(summary)
    earlier = judged(tmp_path, cases.slow_operator(queue_us=6_000))  # 6 ms of earlier work may as well have been 30 ms
    assert earlier.verdict.kind == "gpu_bound"
    assert "(29.9 ms before its first event left out)" in earlier.verdict.headline
    assert "launch is not in the trace" not in text_of(earlier)


def test_idle_time_without_gpu_events_is_not_blamed_on_missing_launches(tmp_path: Path) -> None:
    trace = cases.Timeline()
    for index in range(100):
        trace.run(200 * index, 200 * index + 10, 80)
    lost = [one for one in trace.events if one["cat"] != "kernel" or one["args"]["correlation"] not in (41, 42, 43)]
    found = next(finding for finding in judged(tmp_path, lost).findings if finding.id == "not_recorded")
    assert found.sentence.startswith("The GPU shows no work for 610.0 us in which it ran something")
    assert "keeps all records" in found.advice
    unlinked = [
        one for one in trace.events if one["cat"] == "kernel" or one["args"]["correlation"] not in range(41, 51)
    ]
    found = next(finding for finding in judged(tmp_path, unlinked).findings if finding.id == "not_recorded")
    assert "before work whose launch is not in the trace" in found.sentence
    assert "Record CPU activity too" in found.advice


@pytest.mark.parametrize(
    ("category", "call", "word", "graph"),
    [
        ("cuda_runtime", "cudaLaunchKernel", "GPU", "CUDA graph"),
        ("cuda_runtime", "hipLaunchKernel", "GPU", "HIP graph"),
        ("xpu_runtime", "urEnqueueKernelLaunch", "GPU", None),
        ("mtia_runtime", "runFunction", "device", None),
    ],
)
def test_advice_names_only_what_the_platform_has(
    tmp_path: Path, category: str, call: str, word: str, graph: str | None
) -> None:
    events: list[dict[str, Any]] = []
    for index in range(100):
        events.append({**launch(10 * index, 5, index + 1, call), "cat": category})
        cat = "mtia_ccp_events" if category == "mtia_runtime" else "kernel"
        events.append(kernel(10 * index + 6, 2, index + 1, cat=cat))
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "host_bound"
    assert f"the {word} is busy" in summary.verdict.headline
    assert ("GPU" in text_of(summary)) == (word == "GPU")
    assert [name for name in ("CUDA graph", "HIP graph") if name in text_of(summary)] == ([graph] if graph else [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(seed=st.integers(0, 1 << 30), busy_us=st.integers(5, 9))
def test_missing_gpu_records_never_look_healthy(tmp_path: Path, seed: int, busy_us: int) -> None:
    """Three of ten GPU events of a busy GPU are removed, wherever they are."""
    import random

    kernels = [kernel(10 * index + 5, busy_us + 1, index + 1) for index in range(100)]
    kept = random.Random(seed).sample(kernels, 70)
    launches = [launch(2 * index, 1, index + 1) for index in range(100)]
    assert judged(tmp_path, launches + kept).verdict.kind not in ("gpu_bound", "empty", "cpu_only")


def own_run(tmp_path: Path, events: list[dict[str, Any]] | None = None, **options: Any) -> Summary:
    write(tmp_path / "trace.json", cases.own_cpu_run() if events is None else events)
    (tmp_path / "manifest.json").write_text(json.dumps(cases.manifest(**options)))
    return summarize_trace(tmp_path / "trace.json")


def test_an_own_run_is_put_beside_its_floor(tmp_path: Path) -> None:
    summary = own_run(tmp_path, floor_ms=8.0)
    assert "a decode step takes 10.0 ms, 1.2 times its floor of 8.0 ms (MBU 80 %)" in summary.verdict.headline
    assert summary.findings[0].kind == "memory"
    assert "Memory bounds roseinfer::gate_up_linear" in summary.verdict.advice[0]
    assert "--quantize int8 or int4" in summary.verdict.advice[0]
    assert "--max-batch-size" in summary.verdict.advice[0]
    assert "threads" not in "\n".join(summary.verdict.advice)


def test_an_own_run_bound_by_arithmetic_is_not_told_to_grow(tmp_path: Path) -> None:
    summary = own_run(tmp_path, floor_ms=7.0, bound="compute")
    assert "(MFU 70 %)" in summary.verdict.headline
    assert summary.findings[0].kind == "arithmetic"
    assert "larger batch" not in text_of(summary)


@pytest.mark.parametrize(("bound", "what"), [("memory", "MBU"), ("compute", "MFU")])
def test_the_hardware_bounds_an_own_run_from_sixty_percent_on(tmp_path: Path, bound: str, what: str) -> None:
    near = own_run(tmp_path, floor_ms=6.0, bound=bound)
    assert near.findings[0].id == "matrix_products"
    far = own_run(tmp_path, floor_ms=5.99, bound=bound)
    assert f"({what} 60 %)" in far.verdict.headline
    assert far.findings[0].id == "slow_kernels"
    for bounded in ("fewer bits", "larger batch", "--dtype", "compute less"):
        assert bounded not in "\n".join(far.verdict.advice)


def test_kernels_far_from_every_ceiling_are_named_with_what_they_leave(tmp_path: Path) -> None:
    summary = own_run(tmp_path, floor_ms=1.1)
    first = summary.findings[0]
    assert (first.id, first.where.operator) == ("slow_kernels", "roseinfer::gate_up_linear")
    assert first.saves_ms == pytest.approx(27 * (1 - 1.1 / 9), abs=0.01)  # 9 ms per step in operators
    assert "Neither memory (MBU 11 %) nor arithmetic (MFU 0 %) bounds a decode step" in first.sentence
    assert "roseinfer::gate_up_linear 67 %, roseinfer::down_linear 33 %" in first.sentence
    assert first.advice == "The kernels leave 8.2x on the table: speed up roseinfer::gate_up_linear first."


def test_slow_kernels_that_are_not_compiled_are_to_be_compiled_first(tmp_path: Path) -> None:
    events = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 6000)]
    events.append(event("cpu_op", "aten::mm", 100, 5800))
    assert "run compiled kernels (--compile), then speed up aten::mm first" in text_of(
        own_run(tmp_path, events, floor_ms=0.5)
    )


def test_kernels_are_not_to_blame_if_operators_take_no_longer_than_the_floor(tmp_path: Path) -> None:
    events = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 6000)]
    events.append(event("cpu_op", "aten::mm", 100, 1200))
    found = own_run(tmp_path, events, floor_ms=2.1).findings
    assert [finding.id for finding in found] == ["outside_operators"]


def test_quantized_own_runs_are_told_of_fewer_bits_only_if_there_are_fewer(tmp_path: Path) -> None:
    assert "(--quantize int4)" in text_of(own_run(tmp_path, floor_ms=8.0, quantize="int8"))
    assert "--quantize" not in text_of(own_run(tmp_path, floor_ms=8.0, quantize="int4"))


@pytest.mark.parametrize(
    ("threads", "used", "idle", "is_told"),
    [
        (1, 1.0, 3.0, True),
        (4, 1.0, 3.0, False),  # as many threads as cores
        (1, 0.4, 0.2, False),  # other programs use the cores
        (2, 1.9, 1.0, True),
        (2, 1.9, 0.9, False),
        (1, 1.0, None, True),
        (1, 3.5, None, False),
    ],
)
def test_threads_are_advised_only_for_idle_cores(
    tmp_path: Path, threads: int, used: float, idle: float | None, is_told: bool
) -> None:
    summary = own_run(tmp_path, floor_ms=8.0, threads=threads, cores=4, used=used, idle=idle)
    assert any("--threads 4" in line for line in summary.verdict.advice) == is_told


def test_programs_that_disturb_an_own_run_are_told(tmp_path: Path) -> None:
    assert "other programs 1.6: its times are too long" in text_of(own_run(tmp_path, floor_ms=2.0, used=0.3, idle=0.1))
    assert "other programs" not in text_of(own_run(tmp_path, floor_ms=2.0, used=1.8, idle=0.1))


def test_small_operators_of_an_own_run_lead_to_compile_and_a_larger_batch(tmp_path: Path) -> None:
    events = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 6000)]
    events += [event("cpu_op", "aten::mul", 10 * index, 8) for index in range(600)]
    summary = own_run(tmp_path, events, floor_ms=0.5)
    assert summary.findings[0].id == "small_operators"
    assert "--compile" in summary.verdict.advice[0]
    assert "larger batch" in summary.verdict.advice[0]


def test_time_outside_operators_of_an_own_run_is_named(tmp_path: Path) -> None:
    events = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 6000)]
    events += [event("user_annotation", "roseinfer.schedule", 10, 4000), event("cpu_op", "aten::mm", 4100, 1800)]
    summary = own_run(tmp_path, events, floor_ms=0.5)
    assert summary.findings[0].id == "outside_operators"
    assert "roseinfer.schedule" in summary.verdict.advice[0]
    assert "% of the time is outside operators" in summary.verdict.headline


def test_an_operator_of_many_small_calls_is_called_less_often_instead_of_moved(tmp_path: Path) -> None:
    events = [event("user_annotation", "ProfilerStep#1", 0, 40_000)]
    events += [event("cpu_op", "aten::pad", 10 + 20 * index, 18) for index in range(1000)]
    for index in range(16):
        events += [launch(20_100 + 10 * index, 4, index + 1), kernel(20_200 + 1000 * index, 1000, index + 1)]
    summary = judged(tmp_path, events)
    assert summary.verdict.kind == "host_bound"
    assert summary.verdict.advice[0].startswith("Call aten::pad in ProfilerStep less often (1,000 calls of 18.0 us)")


@pytest.mark.parametrize(("repeats", "first"), [(20, "launch_overhead"), (60, "repeated_launches")])
def test_a_sequence_to_batch_comes_first_unless_it_is_a_small_part(tmp_path: Path, repeats: int, first: str) -> None:
    events = [event("user_annotation", "roseinfer.step[decode bs=4 tokens=4]", 0, 4_000)]
    events.append(event("user_annotation", "append", 3_005, 10 * repeats))
    for index in range(300 + repeats):
        name = "copy_kernel" if index >= 300 else f"gemm{index}"
        events += [launch(10 * index + 6, 3, index + 1), kernel(10 * index + 9, 1, index + 1, name)]
    summary = judged(tmp_path, events)
    assert summary.repetition[0].span == "append"
    assert {finding.id for finding in summary.findings[:2]} == {"launch_overhead", "repeated_launches"}
    assert summary.findings[0].id == first


def test_replayed_kernels_are_not_called_slower_to_launch_than_to_run(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    for step in range(3):
        begin = 3_000 * step
        events.append(event("user_annotation", "roseinfer.step[decode bs=4 tokens=4]", begin, 2_990))
        for graph in range(30):
            at, replay = begin + 95 * graph, 30 * step + graph + 1
            events.append(launch(at, 20, replay, "cudaGraphLaunch"))
            events += [kernel(at + 25 + 4 * one, 3.8, replay, f"k{one}") for one in range(8)]
    text = text_of(judged(tmp_path, events))
    assert "Capture the decode step in one graph" in text
    assert "launching one takes longer" not in text


def spread(places: int, kind: str) -> list[dict[str, Any]]:
    """Return steps that are half idle, each in another place: a data loader, an operator, a wait, or a copy."""
    events: list[dict[str, Any]] = []
    for index in range(places):
        begin, one = 2_000 * index, index + 1
        events.append(event("user_annotation", f"ProfilerStep#{index}", begin, 2_000))
        if kind == "copy":
            events.append(event("cpu_op", f"aten::copy{index}", begin, 20))
            events.append(launch(begin + 2, 4, 1000 + one, "cudaMemcpyAsync"))
            copy = "Memcpy HtoD (Pinned -> Device)"
            events.append(kernel(begin + 10, 990, 1000 + one, copy, cat="gpu_memcpy"))
        else:
            name = {"data": f"load_batch_{index}", "host": f"aten::pad{index}", "wait": f"aten::nonzero{index}"}[kind]
            events.append(event("cpu_op", name, begin, 990))
            if kind == "wait":
                events.append(event("cuda_runtime", "cudaStreamSynchronize", begin + 5, 980))
        events += [launch(begin + 994, 4, one), kernel(begin + 1_000, 1_000, one)]
    return events


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("data", "data_loading"), ("host", "host_places"), ("wait", "synchronizing_call"), ("copy", "exposed_copy")],
)
def test_a_share_of_many_small_places_is_still_a_finding(tmp_path: Path, kind: str, rule: str) -> None:
    summary = judged(tmp_path, spread(60, kind))
    assert summary.findings[0].id == rule
    assert summary.findings[0].share_percent == pytest.approx(49, abs=2)
    assert len(summary.verdict.advice) >= 1
