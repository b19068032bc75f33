"""Advice that a person followed: a comparison of two runs as a prediction that was measured."""

import math
from typing import Literal

from roseinfer.advice.levers import rule_of
from roseinfer.advice.paired_gains import MIN_GAIN_PERCENT, Outcome
from roseinfer.advice.predictions import BY_HAND, Prediction, exceeds, utc_now
from roseinfer.errors import UsageError
from roseinfer.setting_words import listed
from roseinfer.trace.comparing.recording_conditions import was_disturbed
from roseinfer.trace.summary.trace_summary import Summary


def followed_advice(finding: str, old: Summary, new: Summary, source: Literal["baseline", "rerun"]) -> Prediction:
    """Return what a change gave that follows the advice of a finding on `old`; `new` holds the comparison with it.

    `finding` is the key or id of a finding, or the id of a what-if bound. The saving is that of the phases that both
    have, weighed by their time in `old`. A run that other programs slowed down decides nothing: its noise is unknown.
    Raises UsageError for an unknown finding, or without a phase in common.
    """
    key, bound_percent = named_advice(finding, old)
    saves, noise = _saving(old, new)
    is_decided = not (was_disturbed(old.recording) or was_disturbed(new.recording))
    noise = noise if is_decided else None
    return Prediction(
        finding=key,
        rule=rule_of(key),
        lever=BY_HAND,
        change=new.trace.path,
        source=source,
        bound_percent=bound_percent,
        saves_percent=round(saves, 2),
        noise_percent=None if noise is None else round(noise, 2),
        outcome=_outcome(saves, noise),
        above_bound=is_decided and exceeds(bound_percent, saves, noise),
        device=new.recording.device or "",
        model=new.recording.model,
        measured_at=utc_now(),
    )


def named_advice(finding: str, old: Summary) -> tuple[str, float]:
    """Return (key, bound in percent) of the finding or bound of that name; of several of one rule, the first.

    Raises UsageError if there is none.
    """
    known = [(each.key, each.share_percent) for each in old.findings]
    known += [(each.id, each.saves_percent) for each in old.what_if]
    for key, bound in known:
        if key == finding:
            return key, bound
    for key, bound in known:
        if rule_of(key) == finding:
            return key, bound
    raise UsageError(f"--finding {finding!r} is none of the older run's: give one of {listed(key for key, _ in known)}")


def _saving(old: Summary, new: Summary) -> tuple[float, float | None]:
    """Return (saving, noise) in percent, the mean over phases weighed by their time in the older run."""
    phases = new.comparison.phases if new.comparison else []
    total = saved = variance = 0.0
    is_noise_known = bool(phases)
    for change in phases:
        before, after = change.compared_ms
        if before <= 0:
            continue
        steps = old.steps.phases.get(change.phase)
        weight = change.baseline_ms * (steps.count if steps else 1)
        total += weight
        saved += weight * 100 * (1 - after / before)
        is_noise_known &= change.noise_percent is not None
        variance += (weight * (change.noise_percent or 0.0)) ** 2
    if total <= 0:
        raise UsageError("--finding records a change of step times, and the runs have no phase in common")
    return saved / total, math.sqrt(variance) / total if is_noise_known else None


def _outcome(saves_percent: float, noise_percent: float | None) -> Outcome:
    if noise_percent is None or abs(saves_percent) <= max(noise_percent, MIN_GAIN_PERCENT):
        return "no clear change"
    return "helped" if saves_percent > 0 else "slower"
