"""The advice fits what the trace shows: no CUDA graph for what is one, no Python to blame where the device waits."""

from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch, write

from roseinfer.trace import Summary, summarize_trace

STEPS = 6
STEP_US = 1000


def graphed_steps(
    doing: str = "python", *, replays: int = 1, events: int = 60, eager: int = 0, phase: str = "decode"
) -> list[dict[str, Any]]:
    """Decode steps of `replays` graph launches with `events` kernels each, after 600 us of work on the host."""
    made: list[dict[str, Any]] = []
    correlation = 1
    for step in range(STEPS):
        at = step * STEP_US
        made.append(event("user_annotation", f"roseinfer.step[{phase} bs=4 tokens=4]", at, STEP_US - 10))
        made.append(event("user_annotation", "roseinfer.schedule", at + 5, 600))
        if doing == "sync":
            made.append(event("cuda_runtime", "cudaStreamSynchronize", at + 10, 590))
        elif doing != "python":
            made.append(event("cpu_op", doing, at + 10, 590))
        made.append(event("user_annotation", "roseinfer.model.forward", at + 610, 300))
        for index in range(replays + eager):
            is_graph = index < replays
            begin = at + 612 + 250 * index / (replays + eager)
            made.append(launch(begin, 2, correlation, "cudaGraphLaunch" if is_graph else "cudaLaunchKernel"))
            width = 240 / (replays + eager) / (events if is_graph else 1)
            made += [
                kernel(begin + 3 + width * one, 0.8 * width, correlation, f"k{one}")
                for one in range(events if is_graph else 1)
            ]
            correlation += 1
    return made


def summary_of(tmp_path: Path, events: list[dict[str, Any]]) -> Summary:
    return summarize_trace(write(tmp_path / "t.json", events))


def test_steps_that_are_graph_replays_are_not_told_to_become_some(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, graphed_steps())
    decode = summary.steps.phases["decode"]
    assert (decode.launches_per_step, decode.replayed_percent, decode.gpu_events_per_step) == (1, 100, 60)
    assert summary.verdict.kind == "host_bound"
    assert "between graph replays; begin with roseinfer.schedule" in summary.verdict.headline
    advice = "\n".join(summary.verdict.advice)
    assert "Capture" not in advice
    assert "most for plain Python in roseinfer.schedule" in advice
    assert "overlap" in advice
    assert "several steps at once" in advice
    assert any("100 % of the GPU events" in line for line in summary.verdict.evidence)
    assert not any("one launch a step" in bound.change for bound in summary.what_if)


@pytest.mark.parametrize(
    ("doing", "blamed"),
    [("aten::copy_", "most for aten::copy_ in roseinfer.schedule"), ("sync", "read results one step late")],
)
def test_the_advice_between_replays_names_what_the_gaps_are_blamed_on(tmp_path: Path, doing: str, blamed: str) -> None:
    advice = summary_of(tmp_path, graphed_steps(doing)).verdict.advice
    assert any(blamed in line for line in advice)
    assert not any("Capture" in line for line in advice)


def test_piecewise_graphs_are_told_to_become_one(tmp_path: Path) -> None:
    """As vLLM's: a graph a layer, and attention launched in between."""
    summary = summary_of(tmp_path, graphed_steps(replays=24, events=8, eager=24))
    decode = summary.steps.phases["decode"]
    assert (decode.launches_per_step, decode.replayed_percent) == (48, pytest.approx(100 * 192 / 216, abs=0.01))
    assert any("in one graph" in line and "48 launches" in line for line in summary.verdict.advice)


def test_graphs_beside_many_eager_launches_do_not_hide_them(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, graphed_steps(replays=1, events=20, eager=100))
    assert any("Capture the decode step" in line and "100 GPU events" in line for line in summary.verdict.advice)


def test_the_phase_that_the_gpu_waits_for_decides(tmp_path: Path) -> None:
    """One eager prefill beside many graphed decode steps is not what to fix, and the other way round."""
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
    assert any("Capture what repeats" in line and "200 GPU events" in line for line in verdict.advice)
    assert 2 <= len(verdict.evidence) <= 5
    one_by_one = [{**one, "name": "cudaGraphLaunch"} for one in launches]
    replayed = summary_of(tmp_path, one_by_one + kernels).verdict
    assert not any("Capture" in line for line in replayed.advice)


def test_gaps_inside_replays_are_no_fault_of_the_host(tmp_path: Path) -> None:
    replay = [kernel(100 + 2 * one, 1.4, 1, f"k{one}") for one in range(200)]
    step = [event("user_annotation", "roseinfer.step[decode bs=1 tokens=1]", 0, 60)]
    verdict = summary_of(tmp_path, [*step, launch(10, 5, 1, "hipGraphLaunch"), *replay]).verdict
    assert verdict.kind == "balanced"
    assert any("programmatic dependent launch" in line and "0.6 us" in line for line in verdict.advice)


def test_idle_time_without_launches_is_not_called_balanced(tmp_path: Path) -> None:
    verdict = summary_of(tmp_path, [kernel(100 * one, 5, one + 1) for one in range(50)]).verdict
    assert verdict.headline.startswith("Mixed: the GPU is busy 5.1 %")
    assert any("Record CPU activity too" in line for line in verdict.advice)
