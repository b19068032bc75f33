"""Profile an engine on a workload: an unprofiled baseline pass first, then the recording."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from roseinfer.config import ProfileConfig, RunConfig
from roseinfer.costs.ceilings import ceilings
from roseinfer.engine.engine import Engine
from roseinfer.engine.memory import parse_bytes
from roseinfer.engine.step_plan import Phase, StepPlan
from roseinfer.errors import RoseinferError, UsageError
from roseinfer.profiling.dry_run import PlannedStep, most_steps, planned_steps
from roseinfer.profiling.estimate import trace_bytes
from roseinfer.profiling.graph_maps import GraphMaps
from roseinfer.profiling.rank_profile import RankProfiles
from roseinfer.profiling.run_dir import ProfiledStep, check_writable, remove_run_dir
from roseinfer.profiling.schedule import steps_needed
from roseinfer.profiling.session import ProfileSession, SessionResult, record_session
from roseinfer.profiling.unprofiled_baseline import baseline_step_ms, baseline_steps, warm_up
from roseinfer.progress import ProgressCallback, StageCallback
from roseinfer.workload.expert_choices import count_choices
from roseinfer.workload.host_use import measured_host
from roseinfer.workload.load_plan import PlannedRequest
from roseinfer.workload.load_runner import run_load
from roseinfer.workload.pass_progress import reporting
from roseinfer.workload.pass_report import Report
from roseinfer.workload.provenance import ModelInfo
from roseinfer.workload.step_record import step_figures


class ProfileResult(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a profile run, and the report of its unprofiled pass."""

    session: SessionResult
    report: Report


def profile_run(
    engine: Engine,
    load: Sequence[PlannedRequest],
    config: RunConfig,
    *,
    on_stage: StageCallback | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> ProfileResult:
    """Profile a load on the engine into a new run directory.

    The report is from a pass without a profiler, before the process first starts one: a profiler slows the steps that
    it records, and on a GPU also the steps after. `on_stage` is called before each of these stages, and before traces
    are compressed. Raises UsageError, with the arithmetic, if the load cannot fill the schedule.
    """
    check_writable(Path(config.profile.profile_dir))
    planned = planned_steps(engine, config.workload.mode, load)
    _check_fits(config, planned, most_steps(engine, config.workload.mode, load))
    begin: StageCallback = on_stage or _unseen
    begin("Warming up", "")
    ops_per_step = warm_up(engine, load, config)
    engine.runner.capture_missing()
    engine.pool.reset_prefix_cache()
    on_step = reporting(begin("Timing a pass without the profiler", ""), load)
    with measured_host() as host:
        baseline = run_load(engine, config.workload.mode, load, on_step=on_step)
    report = Report.of(baseline)
    count_choices(engine, baseline.outputs)
    device = engine.runner.device
    ranks = RankProfiles(engine.runner)
    limits = ceilings(device, engine.dtype)
    maps = None if engine.runner.graphs is None else GraphMaps(engine.runner.graphs, device)
    replayed = 0
    if maps is not None:
        engine.runner.capture_missing()
        ranks.make_graph_maps(maps)
        replayed = maps.most_events * engine.max_decode_steps
    warnings = _size_warnings(config.profile, device, ops_per_step, replayed)
    for warning in warnings:
        if on_warning is not None:
            on_warning(warning)
    with record_session(config.profile, device, config.workload.mode, begin) as session:
        session.warnings += warnings
        session.world_size = ranks.world_size
        ranks.open(config.profile, session.run_dir)
        built = msgspec.structs.replace(config, engine=engine.config)
        session.details |= {
            "config": msgspec.to_builtins(built, str_keys=True),
            "model": ModelInfo.of(engine),
            "limits": engine.limits,
            "ceilings": {"copy_bytes_per_s": limits.copy_bytes_per_s, "flops_per_s": limits.flops_per_s},
            "host": host.use(),
            "experts": engine.expert_use.balance,
            "report": report,
        }
        plans: list[StepPlan] = []
        try:
            on_progress = begin("Recording", "steps")
            _record(session, engine, load, config, _steady_batch(planned), ranks, plans, on_progress)
            session.rank_traces = ranks.close(None)
        except KeyboardInterrupt:
            session.rank_traces = ranks.close("interrupted")
            raise
        finally:
            recorded: list[ProfiledStep] = session.details.get("steps", [])
            session.details["baseline_step_ms"] = baseline_step_ms(baseline.steps, recorded)
            session.details["baseline_steps"] = baseline_steps(baseline.steps, recorded)
            if maps is not None:
                _add_graph_maps(session, maps, plans, ranks)
    if session.result is None or not session.is_done:
        if session.result is not None and not session.result.traces:
            remove_run_dir(session.run_dir)
        raise RoseinferError(_ended_early(session, config.profile))
    return ProfileResult(session=session.result, report=report)


def _unseen(_what: str, _unit: str) -> ProgressCallback:
    """Stand for a caller that shows no progress."""
    return lambda _done, _total: None


def _add_graph_maps(session: ProfileSession, maps: GraphMaps, plans: list[StepPlan], ranks: RankProfiles) -> None:
    if session.is_done:
        ranks.make_graph_maps(maps)  # for graphs captured during the recording
    session.details["graphs"], warnings = maps.replayed_by(plan.graph for plan in plans)
    session.warnings += warnings


def _ended_early(session: ProfileSession, config: ProfileConfig) -> str:
    has_traces = session.result is not None and session.result.traces
    recorded = f" (the recorded steps are in {session.run_dir})" if has_traces else ""
    if config.loop:
        return (
            f"no step of phase {config.phase} ran, since EOS ended completions early{recorded}: give --no-stop-on-eos"
        )
    return (
        f"the workload ended after {session.recorder.num_steps} of the {steps_needed(config)} steps of the schedule, "
        f"since EOS ended completions early{recorded}: give --no-stop-on-eos, or leave --no-loop out"
    )


def _check_fits(config: RunConfig, planned: list[PlannedStep], most: int) -> None:
    """Raise UsageError if the load has no step to record, or too few for the schedule."""
    profile = config.profile
    if not planned:
        raise UsageError("--max-new-tokens 0 leaves no step to profile: give 1 or more")
    if not any(matches_phase(profile, step.phase, step.batch, _steady_batch(planned)) for step in planned):
        phases = ", ".join(sorted({step.phase for step in planned}))
        raise UsageError(f"the workload has no step of phase {profile.phase}: give --phase any, or one of {phases}")
    needed = steps_needed(profile)
    if not profile.loop and most < needed:
        raise UsageError(
            f"the schedule, --skip-first {profile.skip_first} + --repeat {profile.repeat} x (--wait {profile.wait} + "
            f"--warmup {profile.warmup} + --active {profile.active}), takes {needed} steps, but one pass of the "
            f"workload has at most {most}: leave --no-loop out, shorten the schedule, or raise --max-new-tokens"
        )


def _size_warnings(config: ProfileConfig, device: torch.device, ops_per_step: float, replayed: int) -> list[str]:
    limit = parse_bytes(config.max_trace_size)
    if limit is None:
        raise UsageError(f"invalid --max-trace-size {config.max_trace_size!r}: give a size such as 1GiB")
    size = trace_bytes(config, device, ops_per_step, replayed)
    if size <= limit:
        return []
    return [
        f"a trace of {config.active} active steps takes about {size / 2**30:.2f} GiB, uncompressed, and is held in "
        f"memory until it is written; --max-trace-size is {config.max_trace_size}: give a smaller --active"
    ]


def _steady_batch(planned: list[PlannedStep]) -> int:
    """Return the largest batch of any decode step; 0 if no step decodes."""
    return max((step.batch for step in planned if step.phase == "decode"), default=0)


def matches_phase(config: ProfileConfig, phase: Phase, batch: int, steady_batch: int) -> bool:
    """True if a step of this phase and batch size is one to record. `steady_batch` is the largest batch of the run."""
    match config.phase:
        case "any":
            return True
        case "prefill":
            return phase != "decode"
        case "decode":
            return phase == "decode"
        case "steady":
            return phase == "decode" and batch == steady_batch


def _record(
    session: ProfileSession,
    engine: Engine,
    load: Sequence[PlannedRequest],
    config: RunConfig,
    steady_batch: int,
    ranks: RankProfiles,
    plans: list[StepPlan],
    on_progress: ProgressCallback,
) -> None:
    """Run the load under the recorder; with `loop`, repeat it with new requests until the schedule is finished.

    The plan of each recorded step is appended to `plans`.
    """
    recorder, total = session.recorder, steps_needed(config.profile)
    steps: list[ProfiledStep] = []
    session.details["steps"] = steps

    def before_step(plan: StepPlan) -> None:
        matches = matches_phase(config.profile, plan.phase, len(plan.chunks), steady_batch)
        with recorder.held_signals:  # so that all ranks begin the step, or none
            ranks.begin_step(matches, plan.label)
            recorder.begin_step(matches)
            if recorder.is_recording:
                plans.append(plan)

    def after_step(plan: StepPlan) -> bool:
        with recorder.held_signals:  # so that the manifest lists the steps of the trace
            if recorder.is_recording:
                figures = step_figures(engine, plan)
                steps.append(ProfiledStep(index=recorder.num_steps, cycle=recorder.cycle, **figures))
            ranks.end_step()
            recorder.end_step()
        on_progress(min(recorder.num_steps, total), total)
        return not recorder.is_done

    while not recorder.is_done:
        before = dataclasses.astuple(recorder.schedule)
        engine.pool.reset_prefix_cache()
        run_load(engine, config.workload.mode, load, before_step=before_step, on_step=after_step)
        # If a pass makes no progress, EOS ends completions before the phase to record, and so it would in later passes.
        if not config.profile.loop or dataclasses.astuple(recorder.schedule) == before:
            break
