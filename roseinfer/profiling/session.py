"""Profile any loop of steps into a run directory: the API for library users, and the base of `roseinfer profile`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec.structs import replace

from roseinfer.config import ProfileConfig
from roseinfer.engine.device import device_name, resolve_device
from roseinfer.errors import RoseinferError
from roseinfer.notebook import notebook_html, short_repr
from roseinfer.profiling.held_signals import HeldSignals
from roseinfer.profiling.recorder import Recorder
from roseinfer.profiling.run_dir import (
    SCHEMA_VERSION,
    RunManifest,
    compress,
    create_run_dir,
    point_latest_to,
    remove_run_dir,
    write_json,
)
from roseinfer.profiling.schedule import SCHEDULE_KEYS, steps_needed
from roseinfer.progress import ProgressCallback, StageCallback
from roseinfer.trace import Summary, summarize_trace
from roseinfer.workload.provenance import current_versions


class SessionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Files that a session wrote, with the parsed summary and manifest."""

    run_dir: Path
    traces: list[Path]
    """One trace per recorded cycle; empty if the loop ended before the first step to record."""
    summary: Summary
    manifest: RunManifest
    shortfall: str | None = None
    """Steps that the loop left unrecorded, and the remedy; None if the whole schedule was recorded."""
    unwritten: str | None = None
    """Why summary.json could not be written, in one line; None if it was."""

    def __repr__(self) -> str:
        """Return one line with the run directory."""
        return short_repr("SessionResult", self.summary.verdict.kind, str(self.run_dir))

    def _repr_html_(self) -> str:
        return notebook_html(self)


class ProfileSession:
    """A recording in progress.

    Its `result` is set at the end of the context. It stays None only if the loop failed before a step was recorded.
    """

    def __init__(self, recorder: Recorder, run_dir: Path) -> None:
        self.recorder = recorder
        self.run_dir = run_dir
        self.result: SessionResult | None = None
        self.warnings: list[str] = []
        self.world_size = 1
        """Number of ranks that record into the run directory."""
        self.rank_traces: list[str] = []
        """Names of the traces of ranks other than 0."""
        self.details: dict[str, Any] = {}
        """Additional fields of the manifest."""

    @property
    def is_done(self) -> bool:
        """True if the whole schedule is recorded, so that the loop may end."""
        return self.recorder.is_done

    def step(self) -> None:
        """Mark the end of one step of the loop and the start of the next."""
        self.recorder.end_step()
        self.recorder.begin_step()


@contextmanager
def profile_session(config: ProfileConfig, *, device: str = "auto", name: str = "session") -> Iterator[ProfileSession]:
    """Record steps of any loop by the schedule in `config`; the loop calls `step()` at the end of each step.

        with profile_session(ProfileConfig(wait=1, warmup=1, active=3)) as session:
            for batch in batches:
                model(batch)
                session.step()
        print(session.result.shortfall or session.result.run_dir)

    If the loop is shorter than the schedule, the result has what was recorded and says what is missing. The loop runs
    on the calling thread. Another torch profiler must not become active inside the context; a profiler
    that is still waiting or warming up cannot be detected. Raises RoseinferError for a `phase` other than "any": only
    engine runs have phases.
    """
    if config.phase != "any":
        raise RoseinferError(
            f"invalid phase {config.phase!r}: only an engine run has phases, a session needs phase 'any'"
        )
    with record_session(config, resolve_device(device), name) as session:
        session.recorder.begin_step()
        yield session
    if session.result is not None and session.result.unwritten is not None:
        raise RoseinferError(session.result.unwritten)


@contextmanager
def record_session(
    config: ProfileConfig,
    device: torch.device,
    name: str,
    on_stage: StageCallback | None = None,
) -> Iterator[ProfileSession]:
    """Open a session whose loop calls the recorder's `begin_step` and `end_step` itself.

    Recorded cycles are written at the end, also after an exception, which is raised again. Signals wait until they are
    written. `on_stage` is called before traces are compressed and before they are summarized.
    """
    held = HeldSignals()
    held.open()
    session = None
    has_failed = True
    try:
        with held:
            run_dir = create_run_dir(Path(config.profile_dir), name)
            session = ProfileSession(Recorder(config, device, run_dir, held_signals=held), run_dir)
        with session.recorder:
            yield session
        has_failed = False
    finally:
        try:
            with held:
                if session is not None:
                    _end(session, config, device, has_failed, on_stage)
        finally:
            held.close()


def _end(
    session: ProfileSession,
    config: ProfileConfig,
    device: torch.device,
    has_failed: bool,
    on_stage: StageCallback | None,
) -> None:
    """Write what was recorded, or remove the run directory if a failed loop recorded nothing."""
    recorder = session.recorder
    if recorder.cycles or not has_failed:
        shortfall = None if has_failed else _shortfall(recorder, config)
        session.result = _write(session, config, device, shortfall, on_stage)
    else:
        remove_run_dir(session.run_dir)


def _write(
    session: ProfileSession,
    config: ProfileConfig,
    device: torch.device,
    shortfall: str | None,
    on_stage: StageCallback | None,
) -> SessionResult:
    run_dir, cycles = session.run_dir, session.recorder.cycles
    try:
        traces = _compress_all(
            [run_dir / cycle.trace for cycle in cycles], on_stage and on_stage("Compressing", "bytes")
        )
        settings = msgspec.to_builtins(config)
        described = [replace(cycle, trace=trace.name) for cycle, trace in zip(cycles, traces, strict=True)]
        partial = [
            f"cycle {cycle.cycle} is partial, {cycle.steps} of {config.active} steps: {cycle.partial}"
            for cycle in cycles
            if cycle.partial is not None
        ]
        details = {"config": {"profile": settings}, **session.details}
        manifest = RunManifest(
            schema_version=SCHEMA_VERSION,
            versions=current_versions(),
            device=device_name(device),
            rank=0,
            world_size=session.world_size,
            schedule={key: settings[key] for key in SCHEDULE_KEYS},
            cycles=described,
            traces=[trace.name for trace in traces] + session.rank_traces,
            warnings=[*session.warnings, *partial, *([] if shortfall is None else [shortfall])],
            **details,
        )
        write_json(run_dir / "manifest.json", manifest)
        if traces:
            summary = summarize_trace(run_dir, on_progress=on_stage and on_stage("Summarizing", "bytes"))
        else:
            summary = _summary_of_nothing(run_dir, shortfall or "no step was recorded")
    except OSError as error:
        left = f"; {run_dir} holds the recorded trace" if cycles else ""
        raise RoseinferError(f"cannot write to {run_dir}: {error.strerror or error}{left}") from None
    unwritten = None
    try:
        write_json(run_dir / "summary.json", summary)
    except OSError as error:  # what was recorded is complete, and can still be shown
        unwritten = f"cannot write {run_dir / 'summary.json'}: {error.strerror or error}"
    result = SessionResult(
        run_dir=run_dir,
        traces=traces + [run_dir / name for name in session.rank_traces],
        summary=summary,
        manifest=manifest,
        shortfall=shortfall,
        unwritten=unwritten,
    )
    if not traces:
        return result
    point_latest_to(run_dir)
    if device.type == "cuda" and summary.gpu is None:
        raise RoseinferError(
            f"the trace has no GPU work on {device}: check that CUPTI loads and that no other profiler uses it; "
            f"the host's events are in {run_dir}"
        )
    return result


def _shortfall(recorder: Recorder, config: ProfileConfig) -> str | None:
    """Return what a loop that was too short left unrecorded; None if every cycle was recorded."""
    if recorder.is_done:
        return None
    recorded = sum(cycle.steps for cycle in recorder.cycles)
    done = (
        "no step was recorded" if not recorded else f"{recorded} of {config.active * config.repeat} steps were recorded"
    )
    return (
        f"{done}: the loop ended after {_steps(recorder.num_steps)}, and the schedule takes {steps_needed(config)} "
        f"({config.skip_first} skipped, then {config.repeat} x ({config.wait} waiting + {config.warmup} warm-up + "
        f"{config.active} recorded)): run more steps, or shorten the schedule"
    )


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _summary_of_nothing(run_dir: Path, reason: str) -> Summary:
    """Return the summary of a recording without a step; its verdict says why there is none."""
    empty = run_dir / "empty.json"
    empty.write_text('{"traceEvents": []}')
    summary = summarize_trace(empty)
    empty.unlink()
    return replace(
        summary,
        trace=replace(summary.trace, path=str(run_dir), size_bytes=0),
        verdict=replace(summary.verdict, headline=f"{reason[:1].upper()}{reason[1:]}.", evidence=[], advice=[]),
    )


def _compress_all(uncompressed: list[Path], on_progress: ProgressCallback | None) -> list[Path]:
    total = sum(path.stat().st_size for path in uncompressed)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if on_progress is not None:
            on_progress(done, total)

    return [compress(path, advance) for path in uncompressed]
