"""Compare two summaries: did the change help, where, and by more than the noise?"""

import math
import re
from collections.abc import Callable
from typing import Literal

import msgspec

from roseinfer.trace.comparing.budget_changes import budget_changes
from roseinfer.trace.comparing.comparability import check_complete, differences, is_same, shared_phases
from roseinfer.trace.comparing.scaling import scaling
from roseinfer.trace.comparing.step_times import PhaseTimes, StepTimes, phase_times
from roseinfer.trace.comparing.work_changes import has_moved, largest_cause, work_changes
from roseinfer.trace.naming import duration
from roseinfer.trace.summary.comparison_structs import (
    FigureChange,
    PhaseChange,
    PhaseCosts,
    SpanCost,
    StepCost,
    TraceComparison,
    WorkChange,
)
from roseinfer.trace.summary.finding_structs import NO_SPAN
from roseinfer.trace.summary.trace_summary import Summary
from roseinfer.trace.summary.units import to_percent

_MAX_ROWS = 20
_CLEAR_PERCENT = 1.0
"""Minimum change that is called faster or slower, however small the noise."""
_SAME_PERCENT = 3.0
"""Maximum of change and noise together, up to which a step is said to take as long as before."""

_ADDRESSES = re.compile(r"(?<![0-9A-Za-z])0x[0-9a-fA-F]+|#\d+|(?<=lambda)\(.*?\)")
"""Addresses and the like; `80x64` in the name of a matmul kernel is the size of a tile and no address."""
_VERSIONS = re.compile(r"_\d{2,}(?=_|$)|(?<=[a-z])\d{4,}")


def normalized(name: str) -> str:
    """Return a kernel's name without the parts that differ between builds: addresses, lambda and version numbers."""
    return _VERSIONS.sub("", _ADDRESSES.sub("", name))


def compare(new: Summary, baseline: Summary, fail_above_percent: float | None = None) -> Summary:
    """Return `new` with its comparison to `baseline` filled in, phase by phase.

    Steps of a phase are compared with steps of the same work. If the traces have little of it in common, a phase is
    compared per token where its steps compute different numbers of tokens. The comparison has `failed` if a phase is
    slower by more than `fail_above_percent` and by more than the noise. Without steps in both traces, the GPU's window
    is compared instead, or else the host's. Raises UsageError for traces that have nothing in common to compare and,
    with a limit, for incomplete ones.
    """
    if fail_above_percent is not None:
        check_complete(new, baseline)
    shared = shared_phases(new, baseline)
    times = {name: phase_times(baseline, new, name) for name in shared}
    phases = [_phase(name, times[name]) for name in shared]
    if not phases:
        phases = [_windows(new, baseline)]
    costs = {
        name: (
            _scaled(baseline.phase_costs[name], times[name].scales[0]),
            _scaled(new.phase_costs[name], times[name].scales[1]),
        )
        for name in shared
    }
    work: list[WorkChange] = []
    if shared:
        for index, phase in enumerate(phases):
            name = phase.phase
            counts = baseline.steps.phases[name].count, new.steps.phases[name].count
            changes = work_changes(phase, *costs[name], counts, normalized)
            if _is_unchanged(phase) and times[name].is_same_mix and has_moved(phase, changes):
                phases[index] = msgspec.structs.replace(phase, verdict="moved")
            work += changes
    elif not new.steps.count and not baseline.steps.count:
        work = work_changes(phases[0], _whole(baseline), _whole(new), (1, 1), normalized)
    failed = fail_above_percent is not None and any(
        phase.verdict == "slower" and phase.change_percent > fail_above_percent for phase in phases
    )
    # Per phase: sums over all steps would depend on how many steps of each phase a trace holds.
    pairs: list[tuple[str | None, PhaseCosts, PhaseCosts]] = [(name, *costs[name]) for name in shared]
    if not shared and not new.steps.count and not baseline.steps.count:
        pairs = [(None, _whole(baseline), _whole(new))]
    kernels_on: Literal["cpu", "gpu"] = "gpu" if new.gpu and baseline.gpu else "cpu"
    weights = {name: one.step_weights(baseline, new) for name, one in times.items() if not one.is_same_mix}
    # Where a step's budget has the GPU work of the step before, its weight is that of other work.
    is_own = all(one.budget is None or one.budget.steps_have_own_work for one in (new, baseline))
    split = [name for name in shared if name not in weights or times[name].timed_by == "span" or is_own]
    budgets = budget_changes(new.budget, baseline.budget, split, whole=not shared, weights=weights)
    ranks = len(baseline.trace.ranks), len(new.trace.ranks)
    scaled = [row for row in budgets if row.phase is None or _is_scaled(ranks, times[row.phase])]
    comparison = TraceComparison(
        baseline=baseline.trace.path,
        warnings=differences(new, baseline),
        phases=phases,
        spans=_changes(pairs, "ms", lambda costs: {name: span.wall_ms for name, span in costs.spans.items()}),
        kernels=_changes(pairs, "ms", lambda costs: costs.kernels if kernels_on == "gpu" else costs.operators),
        kernels_on=kernels_on,
        launches=_changes(
            pairs, "GPU events", lambda costs: {name: span.gpu_events for name, span in costs.spans.items()}
        ),
        headline=_headline(phases),
        fail_above_percent=fail_above_percent,
        failed=failed,
        budgets=budgets,
        scaling=scaling(new, baseline, scaled),
        work=work,
        causes=[cause for phase in phases if (cause := largest_cause(phase, work, budgets)) is not None],
    )
    return msgspec.structs.replace(new, comparison=comparison)


def _phase(name: str, phase: PhaseTimes) -> PhaseChange:
    old, now = phase.times
    old_token, token = old.per(phase.tokens[0]), now.per(phase.tokens[1])
    per: Literal["step", "token"] = "step"
    change = _change(name, old, now)
    if old_token is not None and token is not None and not is_same(*phase.tokens):
        per, change = "token", _change(name, old_token, token)
    return msgspec.structs.replace(
        change,
        baseline_ms=old.typical_ms,
        new_ms=now.typical_ms,
        baseline_ms_per_token=old_token.typical_ms if old_token else None,
        new_ms_per_token=token.typical_ms if token else None,
        per=per,
        timed_by=phase.timed_by,
    )


def _is_scaled(ranks: tuple[int, int], phase: PhaseTimes) -> bool:
    """Return whether a step on one rank has as many tokens as before, or as many as ranks that share them leave it."""
    before, after = phase.tokens
    shared = None if before is None else before * ranks[0] / ranks[1]
    return is_same(before, after) or is_same(shared, after)


def _scaled(costs: PhaseCosts, scale: float) -> PhaseCosts:
    """Return the costs of the mean step of a trace, brought to the mix of work that is compared."""
    if scale == 1.0:
        return costs

    def per_name(values: dict[str, StepCost]) -> dict[str, StepCost]:
        return {name: StepCost(cost.ms * scale, cost.std_ms * scale) for name, cost in values.items()}

    return PhaseCosts(
        spans={name: SpanCost(cost.wall_ms * scale, cost.gpu_events * scale) for name, cost in costs.spans.items()},
        operators={name: ms * scale for name, ms in costs.operators.items()},
        kernels={name: ms * scale for name, ms in costs.kernels.items()},
        categories=per_name(costs.categories),
        gpu_operators=per_name(costs.gpu_operators),
        gpu_kernels=per_name(costs.gpu_kernels),
    )


def _windows(new: Summary, baseline: Summary) -> PhaseChange:
    if new.gpu and baseline.gpu and baseline.gpu.window_ms:
        name, old_ms, new_ms = "GPU window", baseline.gpu.window_ms, new.gpu.window_ms
    else:
        name, old_ms, new_ms = "host window", baseline.cpu.window_ms, new.cpu.window_ms
    change = _change(name, StepTimes(old_ms, None), StepTimes(new_ms, None))
    return msgspec.structs.replace(change, per="window", timed_by="window")


def _change(name: str, old: StepTimes, new: StepTimes) -> PhaseChange:
    noise = None
    if old.error_ms is not None and new.error_ms is not None:
        noise = to_percent(2 * math.hypot(old.error_ms, new.error_ms), old.typical_ms)
    change = to_percent(new.typical_ms - old.typical_ms, old.typical_ms)
    clear = abs(change) > max(noise or 0.0, _CLEAR_PERCENT)
    return PhaseChange(
        phase=name,
        baseline_ms=old.typical_ms,
        new_ms=new.typical_ms,
        change_percent=change,
        noise_percent=noise,
        baseline_ms_per_token=None,
        new_ms_per_token=None,
        verdict=("slower" if change > 0 else "faster") if clear else "no clear change",
    )


def _is_unchanged(phase: PhaseChange) -> bool:
    """Return whether the steps are known to take as long as before: noise alone is no evidence of that."""
    if phase.verdict != "no clear change" or phase.noise_percent is None:
        return False
    return abs(phase.change_percent) + phase.noise_percent <= _SAME_PERCENT


def _whole(summary: Summary) -> PhaseCosts:
    """Return the costs of the whole trace, for traces without steps."""

    def times(device: Literal["cpu", "gpu"]) -> dict[str, float]:
        return {op.name: op.self_ms for op in summary.top_ops if op.device == device}

    spans = {row.name: SpanCost(row.wall_ms, row.gpu_events) for row in summary.spans if row.name != NO_SPAN}
    own: dict[str, float] = {}
    for row in summary.operators:
        own[row.name] = own.get(row.name, 0.0) + row.self_gpu_ms
    return PhaseCosts(
        spans=spans,
        operators=times("cpu"),
        kernels=times("gpu"),
        categories={row.category: StepCost(row.ms, 0.0) for row in summary.categories},
        gpu_operators={name: StepCost(ms, 0.0) for name, ms in own.items() if ms},
        gpu_kernels={name: StepCost(ms, 0.0) for name, ms in times("gpu").items()},
    )


def _changes(
    pairs: list[tuple[str | None, PhaseCosts, PhaseCosts]], unit: str, values: Callable[[PhaseCosts], dict[str, float]]
) -> list[FigureChange]:
    """Return the changes of each phase, the largest absolute change first, at most 20 per phase."""
    found: list[FigureChange] = []
    for phase, old, new in pairs:
        old_of, new_of = _normalized(values(old)), _normalized(values(new))
        rows = [
            FigureChange(
                phase=phase,
                name=name,
                unit=unit if phase is None else f"{unit} per step",
                baseline=round(old_of.get(name, 0.0), 6),
                new=round(new_of.get(name, 0.0), 6),
                change_percent=to_percent(new_of.get(name, 0.0) - old_of[name], old_of[name])
                if old_of.get(name)
                else None,
            )
            for name in {**new_of, **old_of}
        ]
        found += sorted(rows, key=lambda row: (-abs(row.new - row.baseline), row.name))[:_MAX_ROWS]
    return found


def _normalized(values: dict[str, float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, value in values.items():
        sums[normalized(name)] = sums.get(normalized(name), 0.0) + value
    return sums


def _headline(phases: list[PhaseChange]) -> str:
    parts: list[str] = []
    for phase in phases:
        noise = "" if phase.noise_percent is None else f", noise {phase.noise_percent:.1f} %"
        old, new = phase.compared_ms
        verdict = "as fast as before, by other work" if phase.verdict == "moved" else phase.verdict
        unit = " per token" if phase.per == "token" else ""
        parts.append(
            f"{phase.phase}: {verdict}, {duration(old, 2)} -> {duration(new, 2)}{unit} "
            f"({phase.change_percent:+.1f} %{noise})"
        )
    return "; ".join(parts)
