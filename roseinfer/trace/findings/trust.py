"""Reasons to doubt the figures of a trace."""

import numpy as np

from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.summary.step_structs import StepsSummary
from roseinfer.trace.summary.trace_summary import Trust
from roseinfer.trace.summary.units import to_percent

_LAUNCHES = ("launchkernel", "kernellaunch", "graphlaunch", "memcpyasync", "memsetasync", "launchcooperative")
_FEW_STEPS = 3
_RUNS_AHEAD = 1.5
"""Ratio of a step's GPU time to its span's time above which the host ran ahead of the GPU."""
_INFLATED = 1.2
"""Ratio of profiled to unprofiled step time above which a note says how much the profiler slowed the steps."""


def doubts(facts: Facts, steps: StepsSummary) -> list[Trust]:
    """Return all reasons to doubt figures of the summary, or to read them with care; warnings first."""
    notes = [
        *_reading(facts.trace),
        *_manifest(facts),
        *_links(facts),
        *_missing_kernels(facts),
        *_steps(facts, steps),
        *_overhead(facts, steps),
        *_graphs(facts),
    ]
    return sorted(notes, key=lambda note: note.level != "warning")


def _reading(trace: Trace) -> list[Trust]:
    notes: list[Trust] = []
    if trace.truncated:
        message = f"The file is incomplete: {trace.truncated}. The summary covers what could be read."
        notes.append(Trust("warning", message))
    counts = trace.counts
    if counts.damaged:
        notes.append(Trust("warning", f"Left out {counted(counts.damaged, 'damaged event')} that could not be read."))
    if counts.dropped:
        what = "event with an impossible time" if counts.dropped == 1 else "events with impossible times"
        notes.append(Trust("warning", f"Left out {counts.dropped:,} {what}."))
    if counts.unknown:
        message = f"Ignored {counted(counts.unknown, 'event')} of kinds unknown to torch.profiler."
        notes.append(Trust("warning" if 2 * counts.unknown >= counts.events else "info", message))
    if counts.events == 0:
        notes.append(Trust("warning", "The trace holds no events: the recording ended before its first active step."))
    return notes


def _manifest(facts: Facts) -> list[Trust]:
    damage = facts.manifest.damage if facts.manifest else None
    if damage is None:
        return []
    message = (
        f"The trace's manifest.json is damaged ({damage}). Figures that need it, such as the roofline, are missing."
    )
    return [Trust("warning", message)]


def _links(facts: Facts) -> list[Trust]:
    linked = facts.attribution.linked
    lost = int(np.count_nonzero(~linked))
    if lost == 0:
        return []
    message = (
        f"{lost:,} of {len(linked):,} GPU events ({to_percent(lost, len(linked)):.0f} %) have no launch in the trace"
    )
    starts = facts.trace.gpu.start_ns
    first_linked = int(starts[linked].min()) if linked.any() else None
    leaked = int(np.count_nonzero(starts[~linked] < first_linked)) if first_linked is not None else 0
    if leaked > lost // 2:
        message += f". {leaked:,} of them ran before the first event with a launch: work of the warm-up leaked in"
    return [Trust("warning" if lost > len(linked) // 100 else "info", message + ".")]


def _missing_kernels(facts: Facts) -> list[Trust]:
    """Return a warning about launches without a GPU event: CUPTI recorded nothing, or its buffer was full."""
    trace = facts.trace
    names = [index for index in np.unique(trace.calls.name).tolist() if _is_launch(trace.names[index])]
    launches = np.flatnonzero(np.isin(trace.calls.name, names))
    if len(launches) == 0:
        return []
    if len(trace.gpu) == 0:
        count = counted(len(launches), "launch")
        return [Trust("warning", f"The trace holds {count} but no GPU event: the GPU side was not recorded.")]
    answered = np.zeros(len(trace.calls), np.bool_)
    answered[facts.attribution.launch[facts.attribution.linked]] = True
    missing = int(np.count_nonzero(~answered[launches]))
    if missing <= len(launches) // 50:
        return []
    order = launches[np.argsort(trace.calls.start_ns[launches], kind="stable")]
    tail = int(np.argmax(answered[order[::-1]]))  # launches after the last launch with a GPU event
    where = f", among them all of the last {tail:,}: the profiler's GPU buffer was full" if tail > missing // 2 else ""
    return [Trust("warning", f"{missing:,} of {len(launches):,} launches have no GPU event{where}.")]


def _is_launch(name: str) -> bool:
    lower = name.lower()
    return any(word in lower for word in _LAUNCHES)


def _steps(facts: Facts, steps: StepsSummary) -> list[Trust]:
    trace = facts.trace
    if steps.count == 0:
        has_work = len(trace.ops) + len(trace.calls) + len(trace.gpu) > 0
        return [Trust("info", "The trace marks no steps: figures cover the whole trace.")] * has_work
    notes = [
        Trust(
            "info",
            f"{phase}: a step's span takes {duration(row.median_ms)}, the GPU events launched in it "
            f"{duration(row.gpu_ms_per_step)}. The host runs ahead, so a span's time is not the step's time.",
        )
        for phase, row in steps.phases.items()
        if row.gpu_ms_per_step > _RUNS_AHEAD * row.median_ms
    ]
    if steps.count < _FEW_STEPS:
        notes.append(Trust("info", f"The trace holds only {counted(steps.count, 'step')}: medians say little."))
    return notes


def _overhead(facts: Facts, steps: StepsSummary) -> list[Trust]:
    notes: list[Trust] = []
    counts = facts.trace.counts
    if counts.profiler_overhead_ns > 1_000_000:
        notes.append(
            Trust("info", f"The profiler itself took {duration(counts.profiler_overhead_ns / 1e6)} of the recording.")
        )
    if counts.python_functions:
        notes.append(Trust("info", "Python stacks were recorded (with_stack), which slows the host down considerably."))
    for phase, baseline_ms in (facts.manifest.baseline_step_ms if facts.manifest else {}).items():
        row = steps.phases.get(phase)
        if row and baseline_ms > 0 and row.median_ms > _INFLATED * baseline_ms:
            times = row.median_ms / baseline_ms
            notes.append(
                Trust(
                    "warning" if times > 2 else "info",
                    f"Profiling made the {phase} step {times:.1f} times as long: {duration(row.median_ms)} here, "
                    f"{duration(baseline_ms)} without the profiler. Host times and idle shares are overstated.",
                )
            )
    return notes


def _graphs(facts: Facts) -> list[Trust]:
    mapped = facts.mapped
    if not mapped.replays:
        return []
    graphs = facts.manifest.graphs if facts.manifest else []
    if not graphs:
        message = f"The GPU events of {counted(mapped.replays, 'graph replay')} count for the span around the replay."
        return [Trust("info", message)]
    events = int((facts.attribution.by_graph | facts.attribution.replayed).sum())
    placed = events - sum(mapped.unmatched) - mapped.unmapped_events
    share = f"{100 * placed / events:.0f} %" if placed < events else "all"
    message = f"Of {events:,} GPU events of graph replays, {share} count for the spans they were captured under."
    notes = [Trust("info", message)]
    if mapped.unmatched:
        first = mapped.unmatched[0]
        nearest = min((len(graph.events) for graph in graphs), key=lambda size: abs(size - first))
        difference = "as many, but others" if nearest == first else f"{nearest:,}"
        notes.append(
            Trust(
                "warning" if len(mapped.unmatched) > mapped.replays // 20 else "info",
                f"{len(mapped.unmatched):,} of {mapped.replays:,} graph replays match no graph of the manifest and "
                f"count for the span around the replay. The first has {first:,} GPU events, the nearest graph "
                f"{difference}.",
            )
        )
    if mapped.unmapped_events:
        notes.append(
            Trust(
                "info",
                f"{mapped.unmapped_events:,} GPU events of graph replays have no span in the manifest and count for "
                "the span around the replay.",
            )
        )
    return notes
