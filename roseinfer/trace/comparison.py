"""Two summaries side by side: did the change help, where, and is it more than noise?"""

import math
import re
from collections.abc import Callable

import msgspec

from roseinfer.trace.summary import (
    NO_SPAN,
    Change,
    Comparison,
    PhaseChange,
    PhaseSummary,
    SpanSummary,
    Summary,
    to_percent,
)

_MAX_SPANS = 20
_MAX_KERNELS = 20
_CLEAR_PERCENT = 1.0
"""A smaller change than this is not called one, however steady the steps."""

_ADDRESSES = re.compile(r"0x[0-9a-fA-F]+|#\d+|(?<=lambda)\(.*?\)")
_VERSIONS = re.compile(r"_\d{2,}(?=_|$)|(?<=[a-z])\d{4,}")


def normalized(name: str) -> str:
    """A kernel's name without what differs from build to build: addresses, lambda numbers, generated suffixes."""
    return _VERSIONS.sub("", _ADDRESSES.sub("", name))


def compare(new: Summary, baseline: Summary, fail_above_percent: float | None = None) -> Summary:
    """`new` with its comparison to `baseline` filled in.

    With `fail_above_percent`, the comparison has `failed` when a phase's median step is slower by more than that and
    by more than the noise of the steps. Without steps in both traces it is the GPU's, else the host's, window.
    """
    phases = [
        _phase(name, baseline.steps.phases[name], row)
        for name, row in new.steps.phases.items()
        if name in baseline.steps.phases
    ] or [_windows(new, baseline)]
    failed = fail_above_percent is not None and any(
        phase.verdict == "slower" and phase.change_percent > fail_above_percent for phase in phases
    )
    comparison = Comparison(
        baseline=baseline.trace.path,
        phases=phases,
        spans=_spans(new, baseline, "ms a step", lambda span: span.wall_ms)[:_MAX_SPANS],
        kernels=_kernels(new, baseline)[:_MAX_KERNELS],
        launches=_spans(new, baseline, "GPU events a step", lambda span: float(span.gpu_events))[:_MAX_SPANS],
        headline=_headline(phases),
        fail_above_percent=fail_above_percent,
        failed=failed,
    )
    return msgspec.structs.replace(new, comparison=comparison)


def _phase(name: str, old: PhaseSummary, new: PhaseSummary) -> PhaseChange:
    noise = None
    if old.count > 1 and new.count > 1:
        error = math.sqrt(old.std_ms**2 / old.count + new.std_ms**2 / new.count)
        noise = to_percent(2 * error, old.median_ms)
    return _phase_change(name, old.median_ms, new.median_ms, noise, _per_token(old), _per_token(new))


def _windows(new: Summary, baseline: Summary) -> PhaseChange:
    if new.gpu and baseline.gpu:
        return _phase_change("GPU window", baseline.gpu.window_ms, new.gpu.window_ms, None, None, None)
    return _phase_change("host window", baseline.cpu.window_ms, new.cpu.window_ms, None, None, None)


def _phase_change(
    name: str, old_ms: float, new_ms: float, noise: float | None, old_token: float | None, new_token: float | None
) -> PhaseChange:
    change = to_percent(new_ms - old_ms, old_ms)
    clear = abs(change) > max(noise or 0.0, _CLEAR_PERCENT)
    return PhaseChange(
        phase=name,
        baseline_ms=old_ms,
        new_ms=new_ms,
        change_percent=change,
        noise_percent=noise,
        baseline_ms_per_token=old_token,
        new_ms_per_token=new_token,
        verdict=("slower" if change > 0 else "faster") if clear else "no clear change",
    )


def _per_token(row: PhaseSummary) -> float | None:
    return round(row.median_ms / row.tokens_per_step, 6) if row.tokens_per_step else None


def _steps(summary: Summary) -> int:
    """What totals are divided by: the steps, or 1 where none are marked."""
    return max(1, summary.steps.count)


def _spans(new: Summary, baseline: Summary, unit: str, value: Callable[[SpanSummary], float]) -> list[Change]:
    old_of = {span.name: value(span) / _steps(baseline) for span in baseline.spans if span.name != NO_SPAN}
    new_of = {span.name: value(span) / _steps(new) for span in new.spans if span.name != NO_SPAN}
    return _changes(old_of, new_of, unit)


def _kernels(new: Summary, baseline: Summary) -> list[Change]:
    device = "gpu" if new.gpu or baseline.gpu else "cpu"

    def per_step(summary: Summary) -> dict[str, float]:
        times: dict[str, float] = {}
        for op in summary.top_ops:
            if op.device == device:
                name = normalized(op.name)
                times[name] = times.get(name, 0.0) + op.self_ms / _steps(summary)
        return times

    return _changes(per_step(baseline), per_step(new), "ms a step")


def _changes(old_of: dict[str, float], new_of: dict[str, float], unit: str) -> list[Change]:
    """The largest absolute changes first."""
    rows = [
        Change(
            name=name,
            unit=unit,
            baseline=round(old_of.get(name, 0.0), 6),
            new=round(new_of.get(name, 0.0), 6),
            change_percent=to_percent(new_of.get(name, 0.0) - old_of[name], old_of[name]) if old_of.get(name) else None,
        )
        for name in {**new_of, **old_of}
    ]
    return sorted(rows, key=lambda row: (-abs(row.new - row.baseline), row.name))


def _headline(phases: list[PhaseChange]) -> str:
    parts: list[str] = []
    for phase in phases:
        noise = "" if phase.noise_percent is None else f", noise {phase.noise_percent:.1f} %"
        parts.append(
            f"{phase.phase}: {phase.verdict}, {phase.baseline_ms:.2f} -> {phase.new_ms:.2f} ms "
            f"({phase.change_percent:+.1f} %{noise})"
        )
    return "; ".join(parts)
