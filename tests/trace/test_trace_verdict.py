"""Verdicts fit the trace: no CUDA graph is advised for graph replays, and Python is not blamed for synchronization."""

import json
from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch
from verdict_traces import STEP_US, STEPS, graphed_steps, rows, summary_of


def test_steps_that_are_graph_replays_are_not_advised_to_use_graphs(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, graphed_steps())
    decode = summary.steps.phases["decode"]
    assert (decode.launches_per_step, decode.replayed_percent, decode.gpu_events_per_step) == (1, 100, 60)
    assert summary.verdict.kind == "host_bound"
    assert "between graph replays; start with roseinfer.schedule" in summary.verdict.headline
    advice = "\n".join(summary.verdict.advice)
    assert "Capture" not in advice
    assert "longest for plain Python in roseinfer.schedule" in advice
    assert "overlap" in advice
    assert "several steps at once" in advice
    assert any("100 % of the GPU events" in line for line in summary.verdict.evidence)
    assert not any("one launch per step" in bound.change for bound in summary.what_if)


@pytest.mark.parametrize(
    ("doing", "blamed"),
    [("aten::copy_", "longest for aten::copy_ in roseinfer.schedule"), ("sync", "read results one step late")],
)
def test_the_advice_between_replays_names_the_activity_behind_the_gaps(tmp_path: Path, doing: str, blamed: str) -> None:
    advice = summary_of(tmp_path, graphed_steps(doing)).verdict.advice
    assert any(blamed in line for line in advice)
    assert not any("Capture" in line for line in advice)


def test_piecewise_graphs_are_advised_to_become_one(tmp_path: Path) -> None:
    """vLLM's piecewise graphs: one graph per layer, and eager attention between them."""
    summary = summary_of(tmp_path, graphed_steps(replays=24, events=8, eager=24))
    decode = summary.steps.phases["decode"]
    assert (decode.launches_per_step, decode.replayed_percent) == (48, pytest.approx(100 * 192 / 216, abs=0.01))
    assert any("in one graph" in line and "48 launches" in line for line in summary.verdict.advice)


def test_graphs_do_not_hide_many_eager_launches(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, graphed_steps(replays=1, events=20, eager=100))
    assert any("Capture the decode step" in line and "100 GPU events" in line for line in summary.verdict.advice)


def test_the_phase_in_which_the_gpu_waits_decides(tmp_path: Path) -> None:
    """Advice is about the decode steps, which are graph replays, and not about the one eager prefill."""
    decode = graphed_steps()
    prefill = [
        event("user_annotation", "roseinfer.step[prefill bs=1 tokens=64]", STEPS * STEP_US, 400),
        *(launch(STEPS * STEP_US + 3 * one, 2, 1000 + one) for one in range(100)),
        *(kernel(STEPS * STEP_US + 3 * one + 4, 2, 1000 + one) for one in range(100)),
    ]
    assert not any("Capture" in line for line in summary_of(tmp_path, decode + prefill).verdict.advice)


def test_without_steps_the_whole_trace_is_judged(tmp_path: Path) -> None:
    launches = [launch(10 * one, 8, one + 1) for one in range(200)]
    kernels = [kernel(10 * one + 9, 1, one + 1) for one in range(200)]
    verdict = summary_of(tmp_path, launches + kernels).verdict
    assert verdict.kind == "host_bound"
    assert any("Capture the repeated work" in line and "200 GPU events" in line for line in verdict.advice)
    assert 2 <= len(verdict.evidence) <= 5
    one_by_one = [{**one, "name": "cudaGraphLaunch"} for one in launches]
    replayed = summary_of(tmp_path, one_by_one + kernels).verdict
    assert not any("Capture" in line for line in replayed.advice)


def test_time_outside_all_spans_is_called_that(tmp_path: Path) -> None:
    events = [one for one in graphed_steps() if not str(one["name"]).startswith("roseinfer.schedule")]
    for one in events:
        if str(one["name"]).startswith("roseinfer.step"):
            one["ts"], one["dur"] = one["ts"] + 600, one["dur"] - 600
    verdict = summary_of(tmp_path, events).verdict
    assert "outside all spans" in verdict.headline
    assert any("plain Python outside all spans" in line for line in verdict.advice)


@pytest.mark.parametrize(("call", "is_cuda"), [("cudaGraphLaunch", True), ("hipGraphLaunch", False)])
def test_gaps_inside_replays_are_not_blamed_on_the_host(tmp_path: Path, call: str, is_cuda: bool) -> None:
    replay = [kernel(16 + 2 * one, 1.4, 1, f"k{one}") for one in range(200)]
    step = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 60)]
    verdict = summary_of(tmp_path, [*step, launch(10, 5, 1, call), *replay]).verdict
    assert verdict.kind == "balanced"
    assert any("Fuse kernels" in line and "0.6 us" in line for line in verdict.advice)
    assert any("programmatic dependent launch" in line for line in verdict.advice) == is_cuda


def test_idle_time_without_launches_is_not_called_balanced(tmp_path: Path) -> None:
    verdict = summary_of(tmp_path, [kernel(100 * one, 5, one + 1) for one in range(50)]).verdict
    assert verdict.headline.startswith("Mixed: the GPU is busy 5.1 %")
    assert any("Record CPU activity too" in line for line in verdict.advice)


def test_many_small_operators_on_a_cpu_are_advised_to_become_fewer(tmp_path: Path) -> None:
    steps = rows(*(("user_annotation", f"ProfilerStep#{one}", 4000 * one, 3990) for one in range(3)))
    ops = rows(*(("cpu_op", "aten::mul", 4000 * (one // 300) + 13 * (one % 300), 5) for one in range(900)))
    verdict = summary_of(tmp_path, steps + ops).verdict
    assert verdict.kind == "cpu_only"
    assert "operators run 38 % of the time" in verdict.headline
    assert any("300 per step" in line and "torch.compile" in line for line in verdict.advice)
    assert any("Most time of ProfilerStep is outside operators" in line for line in verdict.advice)
    assert len(verdict.evidence) >= 2


def test_one_large_operator_on_a_cpu_is_advised_to_become_cheaper(tmp_path: Path) -> None:
    verdict = summary_of(tmp_path, rows(("cpu_op", "aten::mm", 0, 900), ("cpu_op", "aten::add", 900, 50))).verdict
    assert "operators run 100 % of the time; the largest is aten::mm (95 %" in verdict.headline
    assert verdict.advice == [
        "Speed up aten::mm: use a smaller dtype or quantized weights, or a larger batch.",
    ]


def test_matrix_products_and_attention_have_separate_shares(tmp_path: Path) -> None:
    ops = ("roseinfer::qkv_linear", 500), ("aten::_weight_int4pack_mm_for_cpu", 100), ("aten::add", 150)
    attention = ("aten::_scaled_dot_product_flash_attention_for_cpu", 250)
    events, at = [], 0
    for name, duration in (*ops, attention):
        events += rows(("cpu_op", name, at, duration))
        at += duration
    evidence = summary_of(tmp_path, events).verdict.evidence
    assert "Matrix products take 60 % of operator time, attention 25 %." in evidence


@pytest.mark.parametrize("name", ["roseinfer::int4_linear", "aten::_weight_int4pack_mm_for_cpu", "x::int8_linear"])
def test_operators_on_quantized_weights_are_not_advised_to_quantize(tmp_path: Path, name: str) -> None:
    advice = summary_of(tmp_path, rows(("cpu_op", name, 0, 900))).verdict.advice
    assert advice == [f"Speed up {name}: use a larger batch."]
    both = rows(("cpu_op", "own::gate_linear", 0, 900), ("cpu_op", name, 900, 90))
    assert "quantized" not in summary_of(tmp_path, both).verdict.advice[0]


def test_a_run_with_quantized_weights_is_not_advised_to_quantize(tmp_path: Path) -> None:
    manifest = {"schema_version": 1, "config": {"engine": {"quantize": "int8"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    advice = summary_of(tmp_path, rows(("cpu_op", "own::linear", 0, 900))).verdict.advice
    assert advice == ["Speed up own::linear: use a larger batch."]


def test_attention_has_no_weights_to_quantize(tmp_path: Path) -> None:
    advice = summary_of(tmp_path, rows(("cpu_op", "aten::_scaled_dot_product_attention", 0, 900))).verdict.advice
    assert advice == ["Speed up aten::_scaled_dot_product_attention: use a smaller dtype, or a larger batch."]


def test_prefills_are_not_advised_to_grow_their_batch(tmp_path: Path) -> None:
    """A prefill is compute-bound, even among many short decode steps."""
    step = ("user_annotation", "roseinfer.step[{} bs=1 tokens=1]", 0.0, 0.0)
    decodes = [(step[0], step[1].format("decode"), 10.0 * one, 9.0) for one in range(9)]
    prefill = (step[0], step[1].format("prefill"), 100.0, 900.0)
    small = [("cpu_op", "aten::add", 110 + one, 0.42) for one in range(600)]
    events = rows(*decodes, prefill, *small, ("cpu_op", "aten::mm", 720, 270))
    advice = summary_of(tmp_path, events).verdict.advice
    assert any("Speed up aten::mm" in line for line in advice)
    assert any("fused operators or torch.compile" in line for line in advice)
    assert not any("larger batch" in line for line in advice)


def test_compute_bound_steps_are_not_advised_to_grow_their_batch(tmp_path: Path) -> None:
    events = rows(("user_annotation", "roseinfer.step[decode bs=64 tokens=64]", 0, 950), ("cpu_op", "aten::mm", 1, 900))
    for flops, is_told in ((1e6, True), (1e12, False)):
        work = [{"index": 0, "phase": "decode", "batch": 64, "tokens": 64, "bytes": 1e9, "flops": flops}]
        ceilings = {"copy_bytes_per_s": 1e11, "flops_per_s": 1e12}
        manifest = {"schema_version": 1, "ceilings": ceilings, "steps": work}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        advice = summary_of(tmp_path, events).verdict.advice
        assert any("larger batch" in line for line in advice) == is_told


def test_custom_operators_are_not_advised_to_be_compiled(tmp_path: Path) -> None:
    for name, is_told in (("aten::mul", True), ("roseinfer::norm", False)):
        steps = rows(*(("user_annotation", f"ProfilerStep#{one}", 4000 * one, 3990) for one in range(3)))
        ops = rows(*(("cpu_op", name, 4000 * (one // 300) + 13 * (one % 300), 5) for one in range(900)))
        verdict = summary_of(tmp_path, steps + ops).verdict
        assert any("Call fewer, larger operators" in line for line in verdict.advice)
        assert any("Most time of ProfilerStep is outside" in line for line in verdict.advice)
        assert any("compile" in line for line in verdict.advice) == is_told


def layers(*inner: str) -> list[dict[str, Any]]:
    """Return a step of 30 layers: each has an attention span with the inner operators, then one more operator."""
    made = rows(("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 6000))
    for layer in range(30):
        at = 200 * layer
        made += rows(("user_annotation", "roseinfer.attention", at, 100))
        made += rows(*(("cpu_op", name, at + 5 * index, 4) for index, name in enumerate(inner)))
        made += rows(("cpu_op", "own::mlp", at + 150, 10))
    return made


def test_repeats_over_layers_cannot_be_batched(tmp_path: Path) -> None:
    """Each layer depends on the previous layer."""
    assert summary_of(tmp_path, layers("aten::mul")).repetition == []
    found = summary_of(tmp_path, layers("aten::mul", "aten::add")).repetition
    assert [(row.repeats, row.removable_per_step, row.remedy) for row in found] == [(30, 30, "compile")]
    found = summary_of(tmp_path, layers("own::rotate", "own::append")).repetition
    assert [(row.repeats, row.removable_per_step, row.remedy) for row in found] == [(30, 30, "fuse")]


def test_repeats_over_requests_inside_a_layer_can_be_batched(tmp_path: Path) -> None:
    found = summary_of(tmp_path, layers(*["aten::index", "aten::cat"] * 4)).repetition
    batch = next(row for row in found if row.remedy == "batch")
    assert (batch.span, batch.pattern_launches, batch.repeats) == ("roseinfer.attention", 2, 30 * 4)
    assert (batch.removable_per_step, batch.launches_per_step) == (30 * 6, 30 * 8)


def test_consecutive_calls_of_one_span_can_be_batched(tmp_path: Path) -> None:
    step = rows(("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 900))
    calls = [("user_annotation", "append", 20.0 * one, 15.0) for one in range(16)]
    ops = [("cpu_op", "aten::copy_", 20.0 * one + 1, 5.0) for one in range(16)]
    found = summary_of(tmp_path, step + rows(*calls, *ops)).repetition
    assert [(row.span, row.removable_per_step, row.remedy) for row in found] == [("append", 15, "batch")]


def test_repeats_over_layers_on_a_gpu_call_for_a_graph(tmp_path: Path) -> None:
    made = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 6000)]
    for layer in range(30):
        at = 200 * layer
        made.append(event("user_annotation", "roseinfer.kv.append", at, 50))
        made += [launch(at + 5, 2, 2 * layer + 1), kernel(at + 10, 3, 2 * layer + 1, "append")]
        made += [launch(at + 100, 2, 2 * layer + 2), kernel(at + 110, 3, 2 * layer + 2, "gemm")]
    summary = summary_of(tmp_path, made)
    assert {row.remedy for row in summary.repetition} == {"graph"}
    assert not any("Batch the sequence" in line for line in summary.verdict.advice)


def test_times_in_short_traces_are_given_in_microseconds(tmp_path: Path) -> None:
    verdict = summary_of(tmp_path, rows(("user_annotation", "plan", 0, 20), ("cpu_op", "aten::mm", 2, 8.5))).verdict
    assert verdict.evidence[0].startswith("Of 20.0 us, 8.5 us are in operators; 11.5 us are plain Python")
    assert any("aten::mm takes 8.5 us in 1 call" in line for line in verdict.evidence)


def test_a_single_thing_is_not_plural(tmp_path: Path) -> None:
    verdict = summary_of(tmp_path, [launch(0, 2, 1), kernel(3, 90, 1)]).verdict
    text = "\n".join([verdict.headline, *verdict.evidence])
    assert "in 1 GPU event." in text
    assert "in 1 run." in text


def test_a_loop_that_waits_for_its_data_is_advised_to_load_faster(tmp_path: Path) -> None:
    loader = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
    events = rows(("user_annotation", loader, 0, 900), ("cpu_op", "aten::mm", 910, 80))
    assert "waits for its data" in summary_of(tmp_path, events).verdict.advice[0]


def test_spans_of_pure_python_are_advised_to_record_stacks(tmp_path: Path) -> None:
    verdict = summary_of(tmp_path, rows(("user_annotation", "plan", 0, 900))).verdict
    assert verdict.headline == "CPU only: the trace holds no GPU work and no operators."
    assert any("with_stack=True" in line for line in verdict.advice)


def test_work_that_waits_in_a_long_queue_is_not_overhead(tmp_path: Path) -> None:
    events = [
        one
        for index in range(50)
        for one in (launch(10 * index, 4, index + 1), kernel(5000 + 100 * index, 100, index + 1))
    ]
    summary = summary_of(tmp_path, events)
    assert summary.gpu is not None
    assert summary.gpu.median_launch_to_start_us == pytest.approx(5000 + 24.5 * 90 - 4)
    assert summary.verdict.kind == "gpu_bound"
    assert any("The host runs ahead" in line for line in summary.verdict.evidence)


def test_operators_inside_operators_count_once_for_their_span(tmp_path: Path) -> None:
    inner = [event("cpu_op", "aten::t", 20, 10), event("cpu_op", "aten::addmm", 40, 50)]
    outer = [event("user_annotation", "loop", 0, 1000), event("cpu_op", "aten::linear", 10, 100)]
    (span,) = [one for one in summary_of(tmp_path, [*outer, *inner]).spans if one.name == "loop"]
    assert span.self_op_ms == pytest.approx(0.1)


def test_the_three_spans_that_one_kernel_each_would_save_most_are_told(tmp_path: Path) -> None:
    events = [event("user_annotation", "ProfilerStep#1", 0, 10_000)]
    for span, gap in enumerate((40, 10, 30, 20)):
        begin = 10 + 2500 * span
        events.append(event("user_annotation", f"part{span}", begin, 40 * (gap + 2)))
        for index in range(40):
            at, number = begin + (gap + 2) * index, 40 * span + index + 1
            events += [launch(at, 1, number), kernel(at + 1, 2, number)]
    bounds = [bound.change for bound in summary_of(tmp_path, events).what_if]
    told = [change for change in bounds if change.startswith("one kernel per call of")]
    assert told == [f"one kernel per call of part{span}" for span in (0, 2, 3)]


@pytest.mark.parametrize(("wait_us", "is_said"), [(999.5, False), (1000.5, True)])
def test_a_queue_of_a_millisecond_is_said(tmp_path: Path, wait_us: float, is_said: bool) -> None:
    events = [
        one
        for index in range(1, 2001)
        for one in (launch(10 * index, 4, index), kernel(10 * index + 4 + wait_us, 10, index))
    ]
    evidence = summary_of(tmp_path, events).verdict.evidence
    assert any("launched work waits 1.0 ms in the queue" in line for line in evidence) == is_said


def test_exposed_collectives_are_reported_and_hidden_ones_are_not(tmp_path: Path) -> None:
    def trace(at: float) -> list[dict[str, Any]]:
        launches = [launch(0, 1, 1), launch(1, 1, 2)]
        return [*launches, kernel(10, 100, 1, "gemm"), kernel(at, 50, 2, "ncclDevKernel_AllReduce_Sum_bf16", stream=9)]

    exposed = summary_of(tmp_path, trace(110)).verdict
    assert any("Collectives take 50.0 us" in line for line in exposed.evidence)
    assert any("Overlap communication" in line for line in exposed.advice)
    hidden = summary_of(tmp_path, trace(20)).verdict
    assert not any("ollectives" in line for line in hidden.evidence)
