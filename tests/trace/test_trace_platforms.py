"""Traces of every kind of device and of old versions of torch are read as those of CUDA are."""

from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.facts.host_activity import waits
from roseinfer.trace.reading.categories import gpu_kind, host_kind
from roseinfer.trace.reading.columns import KERNEL, MEMCPY, MEMSET
from roseinfer.trace.reading.event_schema import Metadata
from roseinfer.trace.reading.platforms import device_name, platform_of

Events = list[dict[str, Any]]


def recorded(runtime: str, call: str, work: str) -> Events:
    """Return ten operators with a runtime call and 80 us of work each, 100 us apart."""
    made: Events = []
    for index in range(10):
        at, correlation = 100 * index, index + 1
        made.append(event("cpu_op", "aten::mm", at, 20))
        made.append({**launch(at + 5, 10, correlation, call), "cat": runtime})
        made.append(kernel(at + 18, 80, correlation, "gemm", cat=work))
    return made


def summary_of(tmp_path: Path, events: Events) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events))


@pytest.mark.parametrize(
    ("runtime", "call", "work", "platform"),
    [
        ("cuda_runtime", "cudaLaunchKernel", "kernel", "cuda"),
        ("cuda_driver", "cuLaunchKernelEx", "kernel", "cuda"),
        ("cuda_runtime", "hipLaunchKernel", "kernel", "rocm"),
        ("hip_runtime", "hipModuleLaunchKernel", "kernel", "rocm"),
        ("Runtime", "cudaLaunchKernel", "Kernel", "cuda"),
        ("xpu_runtime", "urEnqueueKernelLaunch", "kernel", "xpu"),
        ("xpu_driver", "zeCommandListAppendLaunchKernel", "kernel", "xpu"),
        ("mtia_runtime", "runFunction", "mtia_ccp_events", "mtia"),
        ("privateuse1_runtime", "aclrtLaunchKernel", "concurrent_kernel", "other"),
    ],
)
def test_work_of_every_device_is_read_and_linked(
    tmp_path: Path, runtime: str, call: str, work: str, platform: str
) -> None:
    summary = summary_of(tmp_path, recorded(runtime, call, work))
    assert summary.recording.platform == platform
    assert summary.gpu is not None
    assert (summary.gpu.gpu_events, summary.gpu.linked_percent, summary.gpu.busy_ms) == (10, 100, 0.8)
    assert summary.completeness.complete
    assert summary.completeness.missing == []
    lost = [one for one in recorded(runtime, call, work) if one["cat"] != work or one["args"]["correlation"] % 3]
    assert not summary_of(tmp_path, lost).completeness.complete  # by 3 of 10 launches


@pytest.mark.parametrize(
    ("runtime", "call"), [("mtia_runtime", "runFunction"), ("xpu_runtime", "urEnqueueKernelLaunchWithArgsExp")]
)
def test_a_device_that_was_not_recorded_is_noticed(tmp_path: Path, runtime: str, call: str) -> None:
    found = summary_of(tmp_path, [one for one in recorded(runtime, call, "kernel") if one["cat"] != "kernel"])
    assert [one.kind for one in found.completeness.missing] == ["gpu_not_recorded"]
    assert not found.completeness.complete


@pytest.mark.parametrize(
    ("call", "is_wait"),
    [
        ("cudaStreamSynchronize", True),
        ("hipEventSynchronize", True),
        ("urQueueFinish", True),
        ("urEventWait", True),
        ("zeEventHostSynchronize", True),
        ("zeCommandQueueSynchronize", True),
        ("hostWait", True),
        ("cudaMemcpy", True),
        ("cudaMemcpyAsync", False),
        ("cudaStreamWaitEvent", False),
        ("urEnqueueEventsWaitWithBarrier", False),
        ("zeCommandListAppendWaitOnEvents", False),
        ("cudaLaunchKernel", False),
    ],
)
def test_calls_in_which_the_host_waits(call: str, is_wait: bool) -> None:
    assert waits(call) == is_wait


def test_a_trace_without_a_device_has_no_platform(tmp_path: Path) -> None:
    assert summary_of(tmp_path, [event("cpu_op", "aten::mm", 0, 5)]).recording.platform is None


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("CPU_OP", "op"),
        ("Operator", "op"),
        ("user_annotation", "span"),
        ("gpu_user_annotation", "ignored"),
        ("gcu_user_annotation", "ignored"),
        ("glow_runtime", "call"),
        ("musa_driver", "call"),
        ("driver", "call"),
        ("hpu_op", "call"),
        ("cuda_sync", "ignored"),
        ("xpu_sync", "ignored"),
        ("mtia_insight", "ignored"),
        ("python_function", "python"),
        ("overhead", "overhead"),
        ("kernel", None),
        ("toplevel", None),
        ("cuda", None),
        ("", None),
    ],
)
def test_categories_of_the_host(category: str, kind: str | None) -> None:
    assert host_kind(category) == kind


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        ("kernel", KERNEL),
        ("Kernel", KERNEL),
        ("concurrent_kernel", KERNEL),
        ("mtia_ccp_events", KERNEL),
        ("gpu_memcpy", MEMCPY),
        ("Memcpy", MEMCPY),
        ("gcu_memcpy", MEMCPY),
        ("gpu_memset", MEMSET),
        ("cpu_op", None),
        ("nvtx", None),
    ],
)
def test_categories_of_devices(category: str, kind: int | None) -> None:
    assert gpu_kind(category) == kind


def test_a_device_without_a_name_is_called_what_it_is() -> None:
    unnamed = [{"id": number, "name": "", "totalGlobalMem": 206_141_652_992} for number in range(2)]
    named = [{"id": number, "name": "AMD Instinct MI300X"} for number in range(8)]
    assert names_of(unnamed, 1, "rocm") == "AMD GPU (192 GiB)"
    assert names_of(unnamed, 9, "rocm") == "AMD GPU (192 GiB)"
    assert names_of([], 0, "rocm") == "AMD GPU"
    assert names_of(named, 9, "rocm") == "AMD Instinct MI300X"  # ROCm numbers devices after the host's
    assert names_of([], 0, "xpu") == "Intel GPU"
    assert names_of([], 0, "mtia") == "MTIA"
    assert names_of([], 0, "cuda") == ""
    assert names_of([{"id": 0, "name": "NVIDIA H100"}], 3, "cuda") == ""


def names_of(properties: list[dict[str, Any]], device: int, platform: Any) -> str:
    import msgspec

    metadata = msgspec.convert({"deviceProperties": properties}, Metadata)
    known = {one.id: one for one in metadata.deviceProperties}
    return device_name(known.get(device), metadata, platform)


def test_rocm_is_told_by_its_metadata_too() -> None:
    assert platform_of(["cuda_runtime"], [], Metadata(roctracer_version=4.1)) == "rocm"
    assert platform_of(["cuda_runtime"], [], Metadata()) == "cuda"


def test_steps_that_torch_1_8_wrote_as_operators_are_steps(tmp_path: Path) -> None:
    events: Events = []
    for step in range(5):
        at = 10_000 * step
        events.append(event("Operator", f"ProfilerStep#{16 + step}", at, 9_900))
        for index in range(10):
            correlation = 10 * step + index + 1
            events.append(event("Operator", "aten::mm", at + 500 * index, 50))
            events.append({**launch(at + 500 * index, 5, correlation), "cat": "Runtime"})
            events.append(kernel(at + 500 * index + 20, 300, correlation, cat="Kernel"))
    summary = summary_of(tmp_path, events)
    assert (summary.steps.source, summary.steps.count) == ("ProfilerStep", 5)
    assert summary.steps.phases["step"].gpu_events_per_step == 10
    assert not any(op.name.startswith("ProfilerStep") for op in summary.top_ops)
    assert {op.name for op in summary.top_ops if op.device == "cpu"} == {"aten::mm"}


def labelled_steps(*names: str) -> Events:
    made: Events = []
    for step, name in enumerate(names):
        made.append(event("user_annotation", name, 1000 * step, 900))
        made += [launch(1000 * step + 10, 5, step + 1), kernel(1000 * step + 30, 500, step + 1)]
    return made


@pytest.mark.parametrize(
    ("label", "source", "phase", "batch", "tokens"),
    [
        ("execute_context_0(0)_generation_32(32)", "vLLM", "decode", 32, 32),
        ("execute_context_1(2048)_generation_0(0)", "vLLM", "prefill", 1, 2048),
        ("execute_context_2(512)_generation_30(30)", "vLLM", "mixed", 32, 542),
        (
            "execute_32_context_0(sq0sk0sqsq0sqsk0)_generation_32(sq32sk32785sqsq32sqsk32785)",
            "vLLM",
            "decode",
            32,
            32,
        ),
        (
            "execute_4128_context_2(sq4096sk4096sqsq8388608sqsk8388608)_generation_32(sq32sk999sqsq32sqsk999)",
            "vLLM",
            "mixed",
            34,
            4128,
        ),
        ("execute_new_2_cached_0", "vLLM", "prefill", 2, None),
        ("step[DECODE bs=32]", "SGLang", "decode", 32, 32),
        ("step[EXTEND bs=3 toks=700]", "SGLang", "prefill", 3, 700),
        ("step[MIXED bs=9 ext=256 dec=8]", "SGLang", "mixed", 9, 264),
        ("step[SPLIT_PREFILL bs=2 toks=64]", "SGLang", "prefill", 2, 64),
        ("step[TARGET_VERIFY bs=4]", "SGLang", "verify", 4, None),
    ],
)
def test_step_labels_of_engines(
    tmp_path: Path, label: str, source: str, phase: str, batch: int, tokens: int | None
) -> None:
    steps = summary_of(tmp_path, labelled_steps(label, label, label)).steps
    assert (steps.source, steps.count, list(steps.phases)) == (source, 3, [phase])
    assert (steps.phases[phase].batch_per_step, steps.phases[phase].tokens_per_step) == (batch, tokens)


def test_a_step_with_labels_of_vllm_around_those_of_sglang_is_one_step(tmp_path: Path) -> None:
    around = [event("user_annotation", "execute_context_0(0)_generation_8(8)", 1000 * step, 950) for step in range(3)]
    inside = labelled_steps(*["step[DECODE bs=8]"] * 3)
    steps = summary_of(tmp_path, [*around, *[{**one, "ts": one["ts"] + 20} for one in inside]]).steps
    assert (steps.source, steps.count) == ("SGLang", 3)
