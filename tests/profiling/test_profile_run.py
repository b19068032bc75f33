"""Profiling an engine: exactly the requested steps are recorded, or the call is refused with the arithmetic."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roseinfer.config import EngineConfig, Mode, ProfileConfig, RunConfig, SamplingParams, WorkloadConfig
from roseinfer.engine.engine import Engine
from roseinfer.engine.factory import build_engine
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.profiling.dry_run import planned_steps
from roseinfer.profiling.profile_run import ProfileResult, profile_run
from roseinfer.profiling.run_dir import ProfiledStep
from roseinfer.profiling.schedule import steps_needed
from roseinfer.profiling.unprofiled_baseline import baseline_step_ms
from roseinfer.progress import ProgressCallback
from roseinfer.workload.load_plan import at_once
from roseinfer.workload.step_record import StepRecord

PROMPT = [1, 2, 3]


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    return build_engine(EngineConfig(model=str(tiny_llama), dtype="float32"))


def run(engine: Engine, prompts: list[list[int]], config: RunConfig, **options: Any) -> ProfileResult:
    return profile_run(engine, at_once(prompts, config.sampling), config, **options)


def run_config(folder: Path, mode: Mode, new_tokens: int, *, stop_on_eos: bool = False, **profile: Any) -> RunConfig:
    return RunConfig(
        sampling=SamplingParams(max_new_tokens=new_tokens, stop_on_eos=stop_on_eos),
        workload=WorkloadConfig(mode=mode),
        profile=ProfileConfig(profile_dir=str(folder), **profile),
    )


def step_spans(trace: Path) -> list[str]:
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return [event["name"] for event in events if event.get("name", "").startswith("roseinfer.step[")]


@pytest.mark.parametrize("mode", ["naive", "offline", "online"])
@pytest.mark.parametrize(
    ("loop", "length"),
    [(False, length) for length in range(13)] + [(True, length) for length in (0, 1, 2, 3, 7, 12)],
)
@pytest.mark.parametrize(
    "schedule",
    [
        {"wait": 1, "warmup": 1, "active": 3},
        {"skip_first": 2, "wait": 0, "warmup": 1, "active": 2, "repeat": 2},
        {"skip_first": 1, "wait": 1, "warmup": 0, "active": 1, "repeat": 3},
    ],
    ids=["plain", "twice", "thrice"],
)
def test_exactly_the_requested_steps_are_recorded_or_the_call_is_refused_with_the_arithmetic(
    engine: Engine, tmp_path: Path, mode: Mode, length: int, schedule: dict[str, int], loop: bool
) -> None:
    config = run_config(tmp_path, mode, length, loop=loop, **schedule)
    needed = steps_needed(config.profile)
    if length == 0:
        with pytest.raises(UsageError, match="--max-new-tokens 0 leaves no step to profile"):
            run(engine, [PROMPT], config)
    elif length < needed and not loop:
        with pytest.raises(
            UsageError, match=rf"takes {needed} steps, but one pass of the workload has at most {length}"
        ):
            run(engine, [PROMPT], config)
    else:
        result = run(engine, [PROMPT], config).session
        steps = result.manifest.steps
        assert steps is not None
        active, repeat = config.profile.active, config.profile.repeat
        assert [step.cycle for step in steps] == [cycle for cycle in range(repeat) for _ in range(active)]
        assert [len(step_spans(trace)) for trace in result.traces] == [active] * repeat
        assert result.manifest.warnings == []
        return
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_eos_ends_early_writes_the_recorded_steps_and_fails(engine: Engine, tmp_path: Path) -> None:
    token_ids = engine.generate([PROMPT], SamplingParams(max_new_tokens=12, stop_on_eos=False))[0].token_ids
    at, stop = next((at, token) for at, token in enumerate(token_ids) if at >= 3 and token not in token_ids[:at])
    config = run_config(tmp_path, "online", 12, active=10, loop=False)
    config = msgspec.structs.replace(config, sampling=msgspec.structs.replace(config.sampling, stop_token_ids=(stop,)))
    with pytest.raises(RoseinferError, match=f"after {at + 1} of the 12 steps"):
        run(engine, [PROMPT], config)
    manifest = json.loads((tmp_path / "latest" / "manifest.json").read_text())
    assert manifest["cycles"][0]["steps"] == len(manifest["steps"]) == at - 1
    assert manifest["cycles"][0]["partial"]


@pytest.mark.parametrize("phase", ["prefill", "decode", "steady"])
def test_recording_starts_with_a_step_of_the_requested_phase(engine: Engine, tmp_path: Path, phase: str) -> None:
    prompts = [PROMPT * count for count in (1, 2, 3)]
    config = run_config(tmp_path, "online", 6, wait=0, warmup=1, active=2, phase=phase)
    result = run(engine, prompts, config).session
    assert result.manifest.steps is not None
    phases = {step.phase for step in result.manifest.steps}
    assert phases == ({"prefill"} if phase == "prefill" else {"decode"})
    if phase == "steady":
        assert {step.batch for step in result.manifest.steps} == {3}
    if phase == "prefill":  # only one step has the phase, so that the cycle is partial
        assert "partial" in result.manifest.warnings[0]


def test_a_phase_that_the_workload_never_has_is_refused(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no step of phase decode: give --phase any, or one of prefill"):
        run(engine, [PROMPT], run_config(tmp_path, "online", 1, phase="decode"))


def test_the_manifest_has_the_cost_of_each_step_and_its_unprofiled_time(engine: Engine, tmp_path: Path) -> None:
    result = run(engine, [PROMPT] * 2, run_config(tmp_path, "online", 8))
    manifest = json.loads((result.session.run_dir / "manifest.json").read_text())
    assert set(manifest["baseline_step_ms"]) == {"prefill", "decode"}
    assert [(row["phase"], row["batch"], row["tokens"]) for row in manifest["baseline_steps"]] == [("decode", 2, 2)]
    assert manifest["baseline_steps"][0]["wall_ms"] == manifest["baseline_step_ms"]["decode"]
    weights = engine.num_parameters * 4
    assert weights / 2 < manifest["baseline_steps"][0]["bytes"] < 2 * weights
    assert manifest["report"]["completion_tokens"] == 16
    assert manifest["ceilings"]["copy_bytes_per_s"] > 0
    assert manifest["model"]["parameters"] == engine.num_parameters
    assert {step["batch"] for step in manifest["steps"]} == {2}
    assert all(weights / 2 < step["bytes"] < 2 * weights and step["flops"] > 0 for step in manifest["steps"])
    assert result.session.summary.roofline is not None


def test_the_baseline_is_over_unprofiled_steps_with_the_batch_and_tokens_of_a_recorded_one() -> None:
    work = {"context_tokens": 0, "bytes": 0, "flops": 0}
    unprofiled = [
        StepRecord(phase=phase, batch=batch, tokens=tokens, wall_ms=wall_ms, **work)
        for phase, batch, tokens, wall_ms in (
            ("prefill", 4, 512, 9.0),
            ("decode", 4, 64, 20.0),
            ("decode", 4, 64, 24.0),
            ("decode", 3, 3, 2.0),
            ("decode", 2, 2, 2.0),
            ("decode", 1, 1, 1.0),
        )
    ]

    def found(*recorded: tuple[str, int, int]) -> dict[str, float]:
        steps = [
            ProfiledStep(index=0, cycle=0, phase=phase, batch=batch, tokens=tokens, **work)
            for phase, batch, tokens in recorded
        ]
        return baseline_step_ms(unprofiled, steps)

    assert found(("decode", 4, 64)) == {"prefill": 9.0, "decode": 22.0}
    assert found(("decode", 2, 2), ("decode", 1, 1)) == {"prefill": 9.0, "decode": 1.5}
    mean = (2 * 22.0 + 1.0) / 3  # of launches of different lengths, each counts as often as it was recorded
    assert found(("decode", 4, 64), ("decode", 4, 64), ("decode", 1, 1)) == {"prefill": 9.0, "decode": mean}
    assert found(("decode", 9, 9)) == {"prefill": 9.0, "decode": 2.0}


def test_a_warning_before_the_recording_names_a_size_above_the_limit(engine: Engine, tmp_path: Path) -> None:
    warnings: list[str] = []
    config = run_config(tmp_path, "online", 8, max_trace_size="10kB")
    result = run(engine, [PROMPT], config, on_warning=warnings.append)
    assert "GiB, uncompressed" in warnings[0]
    assert result.session.manifest.warnings == warnings


@pytest.mark.parametrize("mode", ["naive", "offline", "online"])
def test_the_dry_run_plans_the_steps_that_the_engine_takes(engine: Engine, mode: Mode) -> None:
    prompts = [PROMPT * count for count in (1, 5, 9, 2)]
    params = SamplingParams(max_new_tokens=5, stop_on_eos=False, n=2)
    scheduler = engine.scheduler(mode)
    for prompt in prompts:
        scheduler.submit(prompt, params)
    taken = []
    while scheduler.has_unfinished:
        plan = scheduler.next_plan()
        taken.append((plan.phase, len(plan.chunks)))
        scheduler.step()
    assert [(step.phase, step.batch) for step in planned_steps(engine, mode, at_once(prompts, params))] == taken


def test_a_phase_that_eos_prevents_ends_the_run_with_one_line(engine: Engine, tmp_path: Path) -> None:
    first = engine.generate([PROMPT], SamplingParams(max_new_tokens=1, stop_on_eos=False))[0].token_ids[0]
    config = run_config(tmp_path, "online", 8, phase="decode")
    config = msgspec.structs.replace(config, sampling=msgspec.structs.replace(config.sampling, stop_token_ids=(first,)))
    with pytest.raises(RoseinferError, match="no step of phase decode ran"):
        run(engine, [PROMPT], config)
    assert list(tmp_path.iterdir()) == []


def test_every_stage_of_a_run_reports_its_progress(engine: Engine, tmp_path: Path) -> None:
    stages: dict[str, list[tuple[int, int]]] = {}

    def on_stage(name: str, _unit: str) -> ProgressCallback:
        reports = stages.setdefault(name, [])
        return lambda done, total: reports.append((done, total))

    run(engine, [PROMPT], run_config(tmp_path, "online", 8, wait=1, warmup=1, active=2), on_stage=on_stage)
    names = ["Warming up", "Timing a pass without the profiler", "Recording", "Compressing", "Summarizing"]
    assert list(stages) == names
    assert stages["Recording"][-1] == (4, 4)
    assert stages["Timing a pass without the profiler"][-1] == (8, 8)
    for name in names[1:]:
        assert stages[name] == sorted(stages[name])
        assert stages[name][-1][0] == stages[name][-1][1]
