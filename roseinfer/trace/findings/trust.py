"""Reasons to doubt the figures of a trace."""

from collections.abc import Sequence
from statistics import median

from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.findings.unprofiled_times import phase_slowdowns
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.summary.completeness_structs import Completeness
from roseinfer.trace.summary.device_structs import RankSummary
from roseinfer.trace.summary.rank_structs import JobSummary
from roseinfer.trace.summary.step_structs import StepsSummary
from roseinfer.trace.summary.trace_summary import Trust
from roseinfer.trace.summary.work_structs import OperatorWork

_FEW_STEPS = 3
_SHOWN_MS = 0.1
"""Waits of ranks whose cause was not recorded, and differences of their clocks, from which a note says so."""
_INFLATED = 1.2
"""Ratio of profiled to unprofiled step time above which a note says how much the profiler slowed the steps."""


def doubts(
    facts: Facts,
    steps: StepsSummary,
    completeness: Completeness,
    job: JobSummary | None = None,
    ranks: Sequence[RankSummary] = (),
    operators: Sequence[OperatorWork] = (),
) -> list[Trust]:
    """Return all reasons to doubt figures of the summary, or to read them with care; warnings first."""
    notes = [
        *_reading(facts.trace),
        *_manifest(facts),
        *_missing(completeness, facts),
        *_ranks(facts, job, ranks),
        *_steps(facts, steps),
        *_overhead(facts, steps),
        *_graphs(facts),
        *_peaks(facts, operators),
    ]
    return sorted(notes, key=lambda note: note.level != "warning")


def _reading(trace: Trace) -> list[Trust]:
    notes = [Trust("warning", note) for note in trace.notes]
    counts = trace.counts
    if counts.damaged:
        notes.append(Trust("warning", f"Left out {counted(counts.damaged, 'damaged event')} that could not be read."))
    if counts.unknown:
        message = f"Ignored {counted(counts.unknown, 'event')} of kinds unknown to torch.profiler."
        notes.append(Trust("warning" if 2 * counts.unknown >= counts.events else "info", message))
    if counts.events == 0:
        notes.append(Trust("warning", "The trace holds no events: the recording ended before its first active step."))
    return notes


def _peaks(facts: Facts, operators: Sequence[OperatorWork]) -> list[Trust]:
    """Return a note if the device's peaks are missing for the rooflines of products."""
    unknown = [row for row in operators if row.roofline and row.roofline.flops and row.roofline.bound is None]
    if not unknown:
        return []
    names = ", ".join(sorted({device.name or "a device without a name" for device in facts.trace.devices}))
    types = ", ".join(sorted({(row.dtypes or "").split(", ")[0] for row in unknown}))
    message = f"No peak is known for products in {types} on {names}: no roofline is shown. --peak gives the peaks."
    return [Trust("info", message)]


def _manifest(facts: Facts) -> list[Trust]:
    damage = facts.manifest.damage if facts.manifest else None
    if damage is None:
        return []
    message = (
        f"The trace's manifest.json is damaged ({damage}). Figures that need it, such as the roofline, are missing."
    )
    return [Trust("warning", message)]


def _missing(completeness: Completeness, facts: Facts) -> list[Trust]:
    """Return a warning about each kind of missing records, and one about the figures if these decide the result."""
    notes: list[Trust] = []
    if not completeness.complete:
        message = "Records that decide the result are missing: busy and idle shares describe only what was recorded."
        notes.append(Trust("warning", message))
    few = len(facts.trace.gpu) // 100
    for one in completeness.missing:
        is_harmless = one.kind == "event_without_launch" and one.count <= few
        notes.append(Trust("info" if is_harmless else "warning", one.what))
    return notes


def _ranks(facts: Facts, job: JobSummary | None, ranks: Sequence[RankSummary]) -> list[Trust]:
    if job is None:
        if sum(row.communication_ms > 0 for row in ranks) < 2:
            return []
        message = (
            "The collectives of the ranks are not matched: their groups are not recorded, or the files are not of one "
            "job. Waits for other ranks count as communication."
        )
        return [Trust("warning", message)]
    notes: list[Trust] = []
    largest = max((message.group_size for message in facts.trace.messages), default=0)
    if largest > job.num_ranks:
        message = (
            f"Collectives of {largest:,} ranks are in the trace, but the recordings of only {job.num_ranks:,}: waits "
            "for the others count as transfer."
        )
        notes.append(Trust("warning", message))
    notes += [
        Trust(
            "warning",
            f"Rank {one.rank} lacks {one.count:,} of {counted(one.of, 'collective')}, from number {one.first:,} on: it "
            "ended early, or its recording began late or was cut.",
        )
        for one in job.missing
    ]
    if job.unmatched:
        message = f"{counted(job.unmatched, 'collective')} without a partner on another rank: these count as transfer."
        notes.append(Trust("info", message))
    offsets = {row.rank: row.clock_offset_us for row in ranks if row.clock_offset_us is not None}
    far = max(offsets, key=lambda rank: abs(offsets[rank]), default=None)
    if far is not None and abs(offsets[far]) > 1000 * _SHOWN_MS:
        message = (
            f"The clocks of the ranks differ, that of rank {far} by {duration(abs(offsets[far]) / 1000)}. Waits and "
            "transfer need no common clock."
        )
        notes.append(Trust("info", message))
    if job.unrecorded_wait_ms > _SHOWN_MS:
        message = (
            f"{duration(job.unrecorded_wait_ms)} of the waits are before the recording of the rank that was waited for "
            "began: they blame no rank."
        )
        notes.append(Trust("info", message))
    return notes


def _steps(facts: Facts, steps: StepsSummary) -> list[Trust]:
    trace = facts.trace
    if steps.count == 0:
        has_work = len(trace.ops) + len(trace.calls) + len(trace.gpu) > 0
        return [Trust("info", "The trace marks no steps: figures cover the whole trace.")] * has_work
    ahead = [phase for phase, row in steps.phases.items() if row.timed_by == "wall"]
    notes: list[Trust] = []
    if ahead:
        tails = [f"{phase} {duration(median(step.tail_ms for step in steps.of_phase(phase)))}" for phase in ahead]
        message = (
            f"Spans of steps end before the GPU has done their work (median: {', '.join(tails)} later). A step's time "
            "is therefore not its span, but the time between the ends of the GPU's work."
        )
        notes.append(Trust("info", message))
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
    for phase, (traced_ms, unprofiled_ms) in (phase_slowdowns(facts.manifest, steps) if facts.manifest else {}).items():
        times = traced_ms / unprofiled_ms
        if times > _INFLATED:
            notes.append(
                Trust(
                    "warning" if times > 2 else "info",
                    f"Profiling made the {phase} step {times:.1f} times as long: {duration(traced_ms)} here, "
                    f"{duration(unprofiled_ms)} without the profiler. Host times and idle shares are overstated.",
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
