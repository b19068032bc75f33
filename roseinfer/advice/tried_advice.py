"""Try the advice of a recorded run: derive changes, measure them, and judge their predictions."""

import math
import os
import random
import shlex
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from roseinfer.advice.fastest_config import write_fastest_config
from roseinfer.advice.lever_bounds import PhaseBounds, lever_bounds
from roseinfer.advice.levers import Proposal, Settings, applied, as_options, proposals
from roseinfer.advice.predictions import Prediction, add_predictions, exceeds, known_predictions, utc_now
from roseinfer.advice.recorded_run import RecordedRun, read_run
from roseinfer.advice.trial_process import TrialStarter
from roseinfer.advice.trial_result import Combined, SearchResult
from roseinfer.advice.trial_rounds import Candidate, OnEvent
from roseinfer.advice.trial_search import OTHER_CONTENDERS, SearchLimits, search
from roseinfer.errors import UsageError
from roseinfer.trace.summary.trace_summary import Summary

SCHEMA_VERSION = 1
_UNBOUNDED_PERCENT = 30.0
"""Place of a change without a bound in the order of trials."""
_LEAST_PASSES = 9
"""Passes without which nothing can be compared: a warm-up and three rounds of the run itself, its control, and more."""
_MAX_RESIDENTS = 6
_GPU_ENGINE_BYTES = 2 << 30
_CPU_ENGINE_BYTES = 1 << 30
"""Memory of an engine's process without its weights."""


class Combination(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that helped together, measured against the run."""

    options: str
    """Options of the command line that make the change."""
    settings: Settings
    """The same as keys of the config's table `[engine]`."""
    saves_percent: float
    noise_percent: float
    speedup: float
    rounds: int
    is_chained: bool
    """True if the saving multiplies those of the search's steps, since it was not measured clearly as a whole."""


class UntriedAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """Advice that was not measured, with the reason."""

    finding: str
    change: str
    reason: str


class TryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Document of `summarize RUN --try --json`. Shares are of the time per completion token."""

    schema_version: int = SCHEMA_VERSION
    run_dir: str
    device: str
    model: str | None
    measured: Literal["pass", "requests"]
    """`pass` if passes over the workload were timed; `requests` if its requests arrive over time and were timed."""
    budget_s: float
    took_s: float
    is_complete: bool
    """False if the budget, an interruption or a failure ended the search."""
    is_interrupted: bool
    """True if an interruption such as Ctrl-C ended the search."""
    failure: str | None
    """Why the search ended early, if an engine failed that others were compared with."""
    control_percent: float
    """By how much two processes with the run's own settings differ."""
    predictions: list[Prediction]
    """Advice that was measured, the largest saving first."""
    untried: list[UntriedAdvice]
    combined: Combination | None
    """The best settings that keep the precision of numbers; None if nothing helped."""
    reduced: Combination | None
    """The best settings with reduced precision, which changes texts; None if they save no more than `combined`."""
    config: str | None
    """File with the run's configuration and the `combined` settings."""
    command: str | None
    """Command line that runs the workload with these settings."""


class _Advised(msgspec.Struct, frozen=True):
    """A change with its bounds."""

    proposal: Proposal
    bounds: PhaseBounds | None
    expected_percent: float


def try_advice(
    run_dir: Path, summary: Summary, budget_s: float, *, on_event: OnEvent = lambda _name, _fields: None
) -> TryReport:
    """Measure what the advice on a run gives, for about `budget_s` seconds, and add it to the run's predictions.

    Raises UsageError if the run cannot be run here, or if its summary advises no change of a setting.
    """
    began_s = time.monotonic()
    run = read_run(run_dir, "--try")
    if not os.access(run_dir, os.W_OK | os.X_OK):
        raise UsageError(f"--try writes predictions.json: {run_dir} is not writable")
    known_predictions(run_dir)  # a file that cannot be read is refused before anything is measured
    num_gpus, gpu_bytes = _gpus() if run.is_gpu else (0, 0)
    if run.is_gpu and not num_gpus:
        raise UsageError(f"the run was recorded on {run.device}, and this machine has no GPU: try it there")
    advised = advised_changes(run, summary, num_gpus)
    if not advised:
        raise UsageError(f"nothing to try: no finding of {run_dir} names a setting of the engine that can be changed")
    if run.pass_s * _LEAST_PASSES > budget_s:
        raise UsageError(
            f"invalid --budget {budget_s:g}s: a pass of this workload takes {round(run.pass_s, 2):g} s: give "
            f"{math.ceil(_LEAST_PASSES * run.pass_s)}s or more"
        )
    on_event("advised", {"changes": [as_options(each.proposal.settings) for each in advised]})
    residents = _residents(run, gpu_bytes)
    starter = TrialStarter(run, residents=residents, deadline_s=lambda: began_s + budget_s)
    found = search(
        [Candidate(each.proposal.settings, each.proposal.keeps_numbers) for each in advised],
        starter,
        limits=SearchLimits(
            budget_s=budget_s - (time.monotonic() - began_s),
            residents=residents,
            parallel_starts=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2,
        ),
        now_s=time.monotonic,
        rng=random.Random(0),
        on_event=on_event,
    )
    predictions = _predictions(run, advised, found, starter.original_seconds())
    add_predictions(run_dir, predictions)
    path, command = _written(run, found.combined)
    of_settings = {_key(each.proposal.settings): each.proposal for each in advised}
    return TryReport(
        run_dir=str(run_dir),
        device=run.device,
        model=run.model,
        measured="pass" if run.config.workload.request_rate is None else "requests",
        budget_s=budget_s,
        took_s=round(time.monotonic() - began_s, 1),
        is_complete=found.is_complete,
        is_interrupted=found.is_interrupted,
        failure=found.failure,
        control_percent=round(found.control_percent, 2),
        predictions=predictions,
        untried=[
            UntriedAdvice(
                finding=of_settings[_key(each.candidate.settings)].finding,
                change=as_options(each.candidate.settings),
                reason=each.reason,
            )
            for each in found.untried
        ],
        combined=_combination(found.combined),
        reduced=_combination(found.reduced),
        config=path,
        command=command,
    )


def advised_changes(run: RecordedRun, summary: Summary, num_gpus: int) -> list[_Advised]:
    """Return the changes that a summary advises for a run, the largest bound first."""
    now = run.situation(num_gpus, summary)
    largest = sorted(summary.findings, key=lambda finding: -finding.share_percent)
    keys = [finding.key for finding in largest] + [bound.id for bound in summary.what_if]
    advised = []
    for proposal in proposals(keys, now):
        bounds = lever_bounds(proposal.lever, proposal.settings, now, summary)
        expected = _UNBOUNDED_PERCENT if bounds is None else bounds.of_recording(summary)
        advised.append(_Advised(proposal, bounds, expected))
    return sorted(advised, key=lambda each: (not each.proposal.keeps_numbers, -each.expected_percent))


def _predictions(
    run: RecordedRun, advised: list[_Advised], found: SearchResult, seconds: dict[str, float]
) -> list[Prediction]:
    """Return the measured changes, each with its bound for a whole pass, the largest saving first."""
    of_settings = {_key(each.proposal.settings): each for each in advised}
    made = []
    for trial in sorted(found.trials, key=lambda trial: -trial.gain.saves_percent):
        each = of_settings[_key(trial.candidate.settings)]
        bound = None if each.bounds is None else round(each.bounds.of_pass(seconds), 2)
        saves, noise = round(trial.gain.saves_percent, 2), round(trial.gain.noise_percent, 2)
        made.append(
            Prediction(
                finding=each.proposal.finding,
                rule=each.proposal.rule,
                lever=each.proposal.lever,
                change=as_options(each.proposal.settings),
                source="try",
                bound_percent=bound,
                saves_percent=saves,
                noise_percent=noise,
                outcome=trial.outcome,
                above_bound=trial.outcome == "helped" and exceeds(bound, trial.gain.low_percent, None),
                device=run.device,
                model=run.model,
                measured_at=utc_now(),
            )
        )
    return made


def _written(run: RecordedRun, combined: Combined | None) -> tuple[str | None, str | None]:
    """Write the configuration of the combination; return its path and the command that runs it."""
    if combined is None:
        return None, None
    config = msgspec.structs.replace(run.config, engine=applied(run.config.engine, combined.settings))
    comment = f"Written by `roseinfer summarize --try`, which measured {combined.gain.speedup:.2f} times the speed."
    path = write_fastest_config(run.run_dir, config, comment)
    return str(path), f"roseinfer bench --mode {config.workload.mode} --config {shlex.quote(str(path))}"


def _combination(combined: Combined | None) -> Combination | None:
    if combined is None:
        return None
    gain = combined.gain
    return Combination(
        options=as_options(combined.settings),
        settings=combined.settings,
        saves_percent=round(gain.saves_percent, 2),
        noise_percent=round(gain.noise_percent, 2),
        speedup=round(gain.speedup, 3),
        rounds=gain.pairs,
        is_chained=combined.is_chained,
    )


def _key(settings: Settings) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(settings.items()))


def _gpus() -> tuple[int, int]:
    """Return (number of GPUs, memory of the first in bytes)."""
    import torch

    count = torch.cuda.device_count()
    return count, torch.cuda.get_device_properties(0).total_memory if count else 0


def _residents(run: RecordedRun, gpu_bytes: int) -> int:
    """Return how many changes may have an engine at the same time, beside those that they are compared with."""
    if run.is_gpu:  # half of the memory for weights in 16 bits and libraries, the rest for activations and KV caches
        fit = int(gpu_bytes / 2 / (2 * run.parameters + _GPU_ENGINE_BYTES))
    else:  # weights in 32 bits, and a second time while they are packed
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        fit = int(free / (8 * run.parameters + _CPU_ENGINE_BYTES))
    return min(_MAX_RESIDENTS, max(1, fit - OTHER_CONTENDERS))
