"""Check whether two traces can be compared, and list the differences between them other than the code."""

from roseinfer.errors import UsageError
from roseinfer.trace.comparing.recording_conditions import was_disturbed
from roseinfer.trace.naming import counted
from roseinfer.trace.summary.step_structs import PhaseSummary, StepsSummary
from roseinfer.trace.summary.trace_summary import Summary

_SAME_SHARE = 0.01
"""Relative difference of mean tokens or requests per step up to which they count as the same."""


def shared_phases(new: Summary, baseline: Summary) -> list[str]:
    """Return the phases that both traces have steps of.

    If a trace marks no steps, the list is empty: only the windows can be compared. Raises UsageError if nothing can be
    compared.
    """
    for summary in (baseline, new):
        if summary.verdict.kind == "empty":
            raise UsageError(f"nothing to compare: {summary.trace.path} holds no events of torch.profiler")
    shared = [name for name in new.steps.phases if name in baseline.steps.phases]
    if shared:
        return shared
    if new.steps.count and baseline.steps.count:
        raise UsageError(
            f"nothing to compare: {baseline.trace.path} has {_mix(baseline.steps)}, {new.trace.path} has "
            f"{_mix(new.steps)}: no phase in common; record steps of the same phase"
        )
    if not (new.gpu and baseline.gpu and baseline.gpu.window_ms) and not (new.cpu.window_ms and baseline.cpu.window_ms):
        raise UsageError(
            f"nothing to compare: {baseline.trace.path} and {new.trace.path} have neither steps nor GPU work nor host "
            "work in common"
        )
    return []


def check_complete(new: Summary, baseline: Summary) -> None:
    """Raise UsageError if a limit would be checked against a trace whose records do not allow a verdict."""
    for summary in (baseline, new):
        if summary.verdict.kind in ("incomplete", "capture"):
            raise UsageError(
                f"--fail-above needs complete traces: {summary.trace.path}: {summary.verdict.headline} Record it "
                "again, or compare without --fail-above"
            )


def differences(new: Summary, baseline: Summary) -> list[str]:
    """Return warnings: reasons other than the code for which the figures may differ."""
    found = [
        f"the {what} differs: {old} in the baseline, {now} now"
        for what, old, now in (
            ("device", baseline.recording.device, new.recording.device),
            ("model", baseline.recording.model, new.recording.model),
            ("dtype", baseline.recording.dtype, new.recording.dtype),
            ("option --quantize", baseline.recording.quantize, new.recording.quantize),
        )
        if old is not None and now is not None and old != now
    ]
    if bool(new.gpu) != bool(baseline.gpu):
        found.append(f"only {'this trace' if new.gpu else 'the baseline'} holds GPU work")
    for option in ("with_stack", "profile_memory", "record_shapes"):
        was_on = getattr(baseline.recording, option)
        if was_on != getattr(new.recording, option):
            found.append(
                f"{option} was on for {'the baseline' if was_on else 'this trace'} only: it slows the host down"
            )
    for name, recording in (("the baseline", baseline.recording), ("this run", new.recording)):
        if was_disturbed(recording):
            found.append(
                f"other programs slowed {name} down: its threads waited for a core for "
                f"{recording.waiting_percent:.0f} % of the time; record it again on a quiet machine"
            )
    found += _steps_that_differ(new.steps, baseline.steps)
    found += [f"baseline: {doubt.message}" for doubt in baseline.trust if doubt.level == "warning"]
    return found


def is_same(before: float | None, now: float | None) -> bool:
    """Return whether two means per step count as the same; an unknown one equals any."""
    return before is None or now is None or abs(now - before) <= _SAME_SHARE * max(before, now)


def _steps_that_differ(new: StepsSummary, old: StepsSummary) -> list[str]:
    if bool(new.count) != bool(old.count):
        return [
            f"only {'this trace' if new.count else 'the baseline'} marks its steps: whole windows are compared, "
            "however many steps they hold"
        ]
    found: list[str] = []
    if new.source != old.source:
        found.append(f"the steps differ: from {old.source} spans in the baseline, from {new.source} spans now")
    if any(_count(new, phase) * old.count != _count(old, phase) * new.count for phase in {**new.phases, **old.phases}):
        found.append(
            f"the mix of phases differs: {_mix(old)} in the baseline, {_mix(new)} now; only steps of the same phase "
            "are compared"
        )
    for phase, row in new.phases.items():
        name = "step" if phase == "step" else f"{phase} step"
        before = old.phases.get(phase)
        if before is not None and not _is_same_work(before, row):
            found.append(f"the work of a {name} differs: {_work(before)} in the baseline, {_work(row)} now")
    return found


def _count(steps: StepsSummary, phase: str) -> int:
    return steps.phases[phase].count if phase in steps.phases else 0


def _mix(steps: StepsSummary) -> str:
    """Return the number of steps per phase, such as `4 decode steps and 1 prefill step`."""
    parts: list[str] = []
    for phase, row in steps.phases.items():
        unknown = phase == "step"
        parts.append(counted(row.count, "step" if unknown else f"{phase} step") + " of no known phase" * unknown)
    return " and ".join(parts)


def _work(row: PhaseSummary) -> str:
    parts = {"batch": row.batch_per_step, "tokens": row.tokens_per_step}
    return ", ".join(f"{name} {round(value, 1):,g}" for name, value in parts.items() if value is not None)


def _is_same_work(old: PhaseSummary, new: PhaseSummary) -> bool:
    return is_same(old.batch_per_step, new.batch_per_step) and is_same(old.tokens_per_step, new.tokens_per_step)
