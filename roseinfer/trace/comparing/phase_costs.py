"""Mean cost per step of spans, operators and kernels, by phase, so that two traces compare steps of the same phase."""

import numpy as np
from numpy.typing import NDArray

from roseinfer.trace.facts.operator_work import operator_of_events
from roseinfer.trace.facts.step_groups import StepGroups
from roseinfer.trace.facts.steps import steps_at
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.kernel_categories import kernel_category
from roseinfer.trace.reading.columns import Ints
from roseinfer.trace.summary.comparison_structs import PhaseCosts, SpanCost, StepCost
from roseinfer.trace.summary.units import to_ms
from roseinfer.trace.summary.work_structs import CATEGORIES

Floats = NDArray[np.float64]


def phase_costs(facts: Facts, job_steps: StepGroups) -> dict[str, PhaseCosts]:
    """Return the mean costs of a step on one rank, by phase. Events outside all steps are left out.

    Costs of a span are of the ranks that have it: one rank schedules and detokenizes for all.
    """
    steps, trace, spans = facts.steps, facts.trace, facts.spans
    phases = sorted({label.phase for label in steps.labels})
    # The last entry is for events outside all steps, whose step number is -1.
    phase_of = np.array([*(phases.index(label.phase) for label in steps.labels), len(phases)], np.int64)
    counts = np.bincount(phase_of, minlength=len(phases) + 1)[:-1]

    def per_step(step: Ints, column: Ints | NDArray[np.int32], values: Ints, width: int) -> Floats:
        """Return the mean per step of summed values, as `[phases, width]`.

        `step` has the step of each value, or -1 for none, and `column` has its column, below `width`.
        """
        cell = phase_of[step] * width + column
        sums = np.bincount(cell, weights=values, minlength=(len(phases) + 1) * width)
        return np.asarray(sums.reshape(-1, width)[:-1] / counts[:, None], np.float64)

    if not phases:
        return {}
    groups = [*spans.groups, *facts.mapped.new_groups]
    having = _steps_having(facts, phase_of, len(groups) + 1) / counts[:, None]
    outermost = spans.across_threads.outermost(spans.group)
    span_step = steps_at(steps, spans.start_ns)
    wall = per_step(span_step, spans.group, (spans.end_ns - spans.start_ns) * outermost, len(groups) + 1)
    events = per_step(
        span_step,
        spans.group,
        spans.across_threads.add_to_ancestors(facts.costs.gpu_events[:-1]) * outermost,
        len(groups) + 1,
    )
    moved = facts.mapped.inclusive
    moved_step = facts.event_step[facts.mapped.at[moved.event]]
    events += per_step(moved_step, moved.group % (len(groups) + 1), moved.sign, len(groups) + 1)
    gpu_ns = trace.gpu.end_ns - trace.gpu.start_ns
    op_step = steps_at(steps, trace.ops.start_ns)
    operators = per_step(op_step, trace.ops.name, facts.ops.self_ns, len(trace.names))
    kernels = per_step(facts.event_step, trace.gpu.name, gpu_ns, len(trace.names))
    category = np.array([CATEGORIES.index(kernel_category(name)) for name in trace.names], np.int64)
    op = operator_of_events(facts)
    categories = _with_spread(facts, job_steps, phase_of, category[trace.gpu.name], list(CATEGORIES))
    of_operator = np.append(trace.ops.name, -1)[op].astype(np.int64)
    gpu_operators = _with_spread(facts, job_steps, phase_of, of_operator, trace.names)
    gpu_kernels = _with_spread(facts, job_steps, phase_of, trace.gpu.name.astype(np.int64), trace.names)
    return {
        phase: PhaseCosts(
            spans={
                name: SpanCost(
                    wall_ms=to_ms(wall[row, index] / having[row, index]),
                    gpu_events=round(float(events[row, index] / having[row, index]), 3),
                )
                for index, name in enumerate(groups)
                if wall[row, index] or events[row, index]
            },
            operators=_times(trace.names, operators[row]),
            kernels=_times(trace.names, kernels[row]),
            categories=categories[row],
            gpu_operators=gpu_operators[row],
            gpu_kernels=gpu_kernels[row],
        )
        for row, phase in enumerate(phases)
    }


def _steps_having(facts: Facts, phase_of: Ints, width: int) -> Floats:
    """Return the number of steps of each phase on the ranks that have a span, `[phases, width]`, at least 1.

    `phase_of` has the phase of each step, and an entry for events outside all steps.
    """
    spans, moved = facts.spans, facts.mapped.inclusive
    rank = np.unique(facts.step_rank, return_inverse=True)[1]
    phases = int(phase_of.max())
    steps = np.zeros((phases, int(rank.max()) + 1))
    np.add.at(steps, (phase_of[:-1], rank), 1)
    found = np.zeros((int(rank.max()) + 1, phases, width), np.bool_)
    for step, group in (
        (steps_at(facts.steps, spans.start_ns), spans.group),
        (facts.event_step[facts.mapped.at[moved.event]], moved.group % width),
    ):
        known = np.flatnonzero(step >= 0)
        found[rank[step[known]], phase_of[step[known]], group[known]] = True
    return np.asarray(np.maximum(np.einsum("pr,rpw->pw", steps, found), 1), np.float64)


def _with_spread(
    facts: Facts, job_steps: StepGroups, phase_of: Ints, column: Ints, names: list[str]
) -> list[dict[str, StepCost]]:
    """Return, per phase, the GPU time per step by a column of the GPU events, -1 for none, with its spread.

    The spread is that of the job's steps, each the mean of its ranks: how much ranks differ is no noise.
    """
    gpu, count = facts.trace.gpu, len(facts.steps)
    known = np.flatnonzero((facts.event_step >= 0) & (column >= 0))
    used, place = np.unique(column[known], return_inverse=True)
    cell = facts.event_step[known] * len(used) + place
    ns = np.bincount(cell, weights=(gpu.end_ns - gpu.start_ns)[known], minlength=count * len(used))
    of_step = ns.reshape(count, len(used))
    of_job = np.zeros((len(job_steps), len(used)))
    np.add.at(of_job, job_steps.of_step, of_step / job_steps.size[job_steps.of_step, None])
    kinds = {label: kind for kind, label in enumerate(dict.fromkeys(facts.steps.labels))}
    work = np.array([kinds[label] for label in facts.steps.labels], np.int64)
    found: list[dict[str, StepCost]] = []
    for phase in range(int(phase_of.max())):
        recorded = np.flatnonzero(phase_of[:-1] == phase)
        mine, first = np.unique(job_steps.of_step[recorded], return_index=True)
        mean, std = of_step[recorded].mean(axis=0), _spread(of_job[mine], work[recorded[first]])
        found.append(
            {
                names[index]: StepCost(to_ms(mean[at]), to_ms(std[at]))
                for at, index in enumerate(used.tolist())
                if mean[at]
            }
        )
    return found


def _spread(values: Floats, work: Ints) -> Floats:
    """Return the sample standard deviation of the columns over steps of the same work, `[width]`.

    It is over all steps if no two have the same work, and 0 for a single step. `values` is `[steps, width]`; `work` has
    the kind of work of each step.
    """
    if len(values) < 2:
        return np.zeros(values.shape[1])
    kinds, kind, counts = np.unique(work, return_inverse=True, return_counts=True)
    if len(kinds) == len(values):
        return np.asarray(values.std(axis=0, ddof=1), np.float64)
    means = np.zeros((len(kinds), values.shape[1]))
    np.add.at(means, kind, values)
    squares = ((values - (means / counts[:, None])[kind]) ** 2).sum(axis=0)
    return np.asarray(np.sqrt(squares / (len(values) - len(kinds))), np.float64)


def _times(names: list[str], nanoseconds: Floats) -> dict[str, float]:
    return {names[index]: to_ms(nanoseconds[index]) for index in np.flatnonzero(nanoseconds).tolist()}
