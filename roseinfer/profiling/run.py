"""A whole profile run: the unprofiled baseline first, then the recording, then the files."""

import gzip
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import msgspec

from roseinfer.config import RunConfig
from roseinfer.engine.core import Prompt
from roseinfer.engine.device import device_name
from roseinfer.engine.engine import Engine
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.profiling.recorder import Recorder
from roseinfer.profiling.run_dir import (
    Manifest,
    ProfiledStep,
    Schedule,
    check_writable,
    create_run_dir,
    point_latest_to,
    write_json,
)
from roseinfer.trace import Summary, summarize_trace
from roseinfer.workload.provenance import ModelInfo, current_versions
from roseinfer.workload.report import Report
from roseinfer.workload.run import StepRecord, WorkloadResult, run_workload

_WARM_UP_STEPS = 64
"""Most steps of the pass before the baseline: what runs for the first time loads kernels and grows memory pools."""


class ProfileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a profile run left on disk, and its figures."""

    run_dir: Path
    traces: list[Path]
    report: Report
    summary: Summary


def profile_run(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: RunConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> ProfileResult:
    """Profile the workload on the engine into a new run directory.

    The report comes from a pass with no profiler, before the process first touches one: a profiler slows what runs
    under it, and on a GPU what runs after it, too. `on_progress` gets (steps done, steps in all) of the recording.
    """
    profile_dir = Path(config.profile.profile_dir)
    check_writable(profile_dir)
    baseline = _baseline(engine, prompts, config)
    run_dir = create_run_dir(profile_dir, config.workload.mode)
    try:
        return _record_into(run_dir, engine, prompts, config, baseline, on_progress)
    except OSError as error:
        raise RoseinferError(f"cannot write to {run_dir}: {error.strerror or error}") from None


def _baseline(engine: Engine, prompts: Sequence[Prompt], config: RunConfig) -> WorkloadResult:
    steps_seen = 0

    def first_steps(_record: StepRecord) -> bool:
        nonlocal steps_seen
        steps_seen += 1
        return steps_seen < _WARM_UP_STEPS

    run_workload(engine, config.workload.mode, prompts, config.sampling, on_step=first_steps)
    if steps_seen == 0:
        raise UsageError("the workload has no step to profile: max_new_tokens is 0")
    return run_workload(engine, config.workload.mode, prompts, config.sampling)


def _record_into(
    run_dir: Path,
    engine: Engine,
    prompts: Sequence[Prompt],
    config: RunConfig,
    baseline: WorkloadResult,
    on_progress: Callable[[int, int], None] | None,
) -> ProfileResult:
    plain = run_dir / "rank0-cycle0.pt.trace.json"
    steps = _record(engine, prompts, config, plain, on_progress)
    trace = _compress(plain)
    summary = summarize_trace(trace)
    report = Report.of(baseline)
    write_json(run_dir / "summary.json", summary)
    write_json(run_dir / "manifest.json", _manifest(engine, config, baseline, report, steps, trace))
    point_latest_to(run_dir)
    return ProfileResult(run_dir=run_dir, traces=[trace], report=report, summary=summary)


def _record(
    engine: Engine,
    prompts: Sequence[Prompt],
    config: RunConfig,
    trace_path: Path,
    on_progress: Callable[[int, int], None] | None,
) -> list[ProfiledStep]:
    """Loop the workload, with fresh requests each time, until the schedule is done; the active steps."""
    schedule = config.profile
    total = schedule.wait + schedule.warmup + schedule.active
    active: list[ProfiledStep] = []
    done = 0

    with Recorder(schedule, engine.runner.device, trace_path) as recorder:

        def after_step(record: StepRecord) -> bool:
            nonlocal done
            if recorder.is_active:
                active.append(ProfiledStep(done, 0, record.phase, record.batch, record.tokens, record.context_tokens))
            done += 1
            recorder.step()
            if on_progress is not None:
                on_progress(done, total)
            return not recorder.is_done

        while not recorder.is_done:
            run_workload(engine, config.workload.mode, prompts, config.sampling, on_step=after_step)
    return active


def _compress(plain: Path) -> Path:
    """Gzip at level 1: torch's own level 9 takes several times as long for a tenth less."""
    target = plain.with_name(f"{plain.name}.gz")
    with plain.open("rb") as source, gzip.open(target, "wb", compresslevel=1) as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    plain.unlink()
    return target


def _manifest(
    engine: Engine,
    config: RunConfig,
    baseline: WorkloadResult,
    report: Report,
    steps: list[ProfiledStep],
    trace: Path,
) -> Manifest:
    by_phase: dict[str, list[float]] = {}
    for step in baseline.steps:
        by_phase.setdefault(step.phase, []).append(step.wall_ms)
    return Manifest(
        versions=current_versions(),
        device=device_name(engine.runner.device),
        rank=0,
        world_size=1,
        config=config,
        model=ModelInfo.of(engine),
        schedule=Schedule(config.profile.wait, config.profile.warmup, config.profile.active),
        baseline_step_ms={phase: median(times) for phase, times in by_phase.items()},
        report=report,
        steps=steps,
        traces=[trace.name],
        warnings=[],
    )
