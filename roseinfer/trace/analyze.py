"""From a trace on disk to its summary."""

from pathlib import Path

import numpy as np

from roseinfer.progress import ProgressCallback
from roseinfer.trace.blame import rank_gaps
from roseinfer.trace.columns import Trace
from roseinfer.trace.devices import summarize_devices
from roseinfer.trace.facts import Facts, gather_facts, launching_activity
from roseinfer.trace.folder import find_traces
from roseinfer.trace.host_side import Findings
from roseinfer.trace.intervals import union_length
from roseinfer.trace.manifest import Manifest, find_manifest
from roseinfer.trace.ops import summarize_ops
from roseinfer.trace.phase_costs import phase_costs
from roseinfer.trace.ranks import merge, summarize_ranks
from roseinfer.trace.reader import read_trace
from roseinfer.trace.recording import recording_of
from roseinfer.trace.repetition import find_repetition
from roseinfer.trace.roofline import roofline
from roseinfer.trace.span_costs import summarize_spans
from roseinfer.trace.step_stats import summarize_steps
from roseinfer.trace.summary import CpuSummary, Summary, TraceInfo, to_ms, to_percent
from roseinfer.trace.syncs import find_syncs
from roseinfer.trace.trust import doubts
from roseinfer.trace.typical import draw_typical_step
from roseinfer.trace.verdict import judge
from roseinfer.trace.what_if import bounds


def summarize_trace(path: Path, *, on_progress: ProgressCallback | None = None) -> Summary:
    """The summary of one Chrome trace, `.json` or `.json.gz`, or of a folder of them (ranks, cycles) as one.

    `on_progress` is called with (bytes read, bytes in all). Raises TraceError for what is no trace.
    """
    path = Path(path)
    if not path.is_dir():
        return summarize_columns(read_trace(path, on_progress=on_progress), find_manifest(path))
    files = find_traces(path)
    total = sum(file.stat().st_size for file in files)
    traces: list[Trace] = []
    done = 0
    for file in files:
        before = done
        progress = None if on_progress is None else lambda now, _, at=before: on_progress(at + now, total)
        traces.append(read_trace(file, on_progress=progress))
        done += traces[-1].size_bytes
    return summarize_columns(merge(traces, str(path)), find_manifest(path))


def summarize_columns(trace: Trace, manifest: Manifest | None = None) -> Summary:
    """The summary of a trace in memory."""
    facts = gather_facts(trace, manifest)
    gpu, devices = summarize_devices(trace, facts.attribution, facts.gaps)
    steps = summarize_steps(trace, facts.steps, facts.event_step, facts.attribution, facts.gaps)
    spans = summarize_spans(facts.spans, facts.costs, facts.mapped)
    cpu, top_ops, what_if = _cpu(facts), summarize_ops(facts), bounds(facts, gpu)
    costs, limits, recording = phase_costs(facts), roofline(manifest, steps), recording_of(trace, manifest, devices)
    repetition, ranks = find_repetition(facts), summarize_ranks(facts)
    activity = launching_activity(facts)  # the largest table, so the last
    gaps, syncs = rank_gaps(facts, activity), find_syncs(facts, activity)
    del activity
    return Summary(
        trace=TraceInfo(
            path=trace.path,
            events=trace.counts.events,
            size_bytes=trace.size_bytes,
            ranks=sorted(set(trace.file_ranks)),
        ),
        gpu=gpu,
        devices=devices,
        cpu=cpu,
        steps=steps,
        spans=spans,
        gaps=gaps,
        repetition=repetition,
        syncs=syncs,
        what_if=what_if,
        roofline=limits,
        comparison=None,
        top_ops=top_ops,
        ranks=ranks,
        typical_step=draw_typical_step(facts),
        verdict=judge(
            _events_of_work(trace),
            trace.counts.unknown,
            _lost_gpu(trace),
            cpu,
            top_ops,
            Findings(gpu, steps, spans, gaps, repetition, syncs, what_if, ranks, limits, recording),
        ),
        trust=doubts(facts, steps),
        recording=recording,
        phase_costs=costs,
    )


def _events_of_work(trace: Trace) -> int:
    """Events that say what ran. A recording without any still holds metadata and the profiler's own step."""
    own = [index for index, name in enumerate(trace.names) if name.startswith("ProfilerStep#")]
    spans = int(np.count_nonzero(~np.isin(trace.spans.name, own)))
    return len(trace.ops) + len(trace.calls) + len(trace.gpu) + spans


def _lost_gpu(trace: Trace) -> str | None:
    """The GPU that the head of a broken-off file names; None for a whole file, or where no GPU is named."""
    names = sorted({device.name or "the GPU" for device in trace.metadata.deviceProperties})
    return ", ".join(names) if trace.truncated and names else None


def _cpu(facts: Facts) -> CpuSummary:
    """Windows of several files are added up."""
    trace, ops = facts.trace, facts.ops
    top = ops.depth == 0
    start, end, thread = ops.start_ns[top], ops.end_ns[top], trace.ops.thread[top]
    window_ns = busy_ns = 0
    for file in range(len(trace.file_ranks)):
        threads = [index for index, one in enumerate(trace.thread_files) if one == file]
        ranges = [
            (int(table.start_ns[low]), int(table.end_ns[low:high].max()))
            for table in (trace.ops, trace.spans, trace.calls)
            for low, high in (np.searchsorted(table.thread, (one, one + 1)) for one in threads)
            if high > low
        ]
        if ranges:
            window_ns += max(last for _, last in ranges) - min(first for first, _ in ranges)
            mine = np.isin(thread, threads)
            busy_ns += union_length(start[mine], end[mine])
    return CpuSummary(window_ms=to_ms(window_ns), top_level_busy_percent=to_percent(busy_ns, window_ns))
