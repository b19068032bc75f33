"""Run all stages on a trace: from files on disk to a summary."""

from pathlib import Path

from roseinfer.progress import ProgressCallback
from roseinfer.trace.comparing.phase_costs import phase_costs
from roseinfer.trace.comparing.recording_conditions import recording_of
from roseinfer.trace.device_peaks import parse_peaks
from roseinfer.trace.facts.captured_regions import match_replays
from roseinfer.trace.facts.job_times import job_times
from roseinfer.trace.facts.rank_waits import rank_waits
from roseinfer.trace.facts.step_groups import group_steps
from roseinfer.trace.facts.trace_facts import gather_facts
from roseinfer.trace.findings.completeness import find_missing
from roseinfer.trace.findings.device_summary import summarize_devices
from roseinfer.trace.findings.host_summary import summarize_host
from roseinfer.trace.findings.idle_time import explain_idle_time
from roseinfer.trace.findings.job_summary import summarize_job
from roseinfer.trace.findings.lead_in import lead_in
from roseinfer.trace.findings.memory_summary import summarize_memory
from roseinfer.trace.findings.operator_roofline import peaks_of
from roseinfer.trace.findings.operator_summary import summarize_ops
from roseinfer.trace.findings.rank_summary import summarize_ranks
from roseinfer.trace.findings.repetition import find_repetition
from roseinfer.trace.findings.replayed_operators import replay_notes
from roseinfer.trace.findings.roofline import roofline
from roseinfer.trace.findings.span_summary import summarize_spans
from roseinfer.trace.findings.step_summary import summarize_steps
from roseinfer.trace.findings.trace_contents import count_work_events, lost_gpu
from roseinfer.trace.findings.trust import doubts
from roseinfer.trace.findings.typical_step import draw_typical_step
from roseinfer.trace.findings.what_if import bounds
from roseinfer.trace.findings.work_summary import fold, summarize_work
from roseinfer.trace.reading.columns import Trace
from roseinfer.trace.reading.trace_folder import read_folder
from roseinfer.trace.reading.trace_manifest import TraceManifest, find_manifest
from roseinfer.trace.reading.trace_reader import read_trace
from roseinfer.trace.summary.trace_summary import Summary, TraceInfo
from roseinfer.trace.summary.work_structs import DevicePeaks
from roseinfer.trace.verdict.judge import judge
from roseinfer.trace.verdict.judged_trace import JudgedTrace


def summarize_trace(
    path: Path | str,
    *,
    peak: str | None = None,
    capture: Path | str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Summary:
    """Summarize a Chrome trace, `.json` or `.json.gz`, or a folder of traces (of ranks or cycles) as one.

    `peak` sets the peaks of the devices, as TFLOP/s and TB/s such as `989,3.35`, in place of the built-in table.
    `capture` is a trace of an eager run of the same program, whose operators the graph replays get. `on_progress`
    receives (bytes read, total bytes). Raises TraceError if a file is not a trace.
    """
    trace, manifest = read_columns(Path(path), on_progress=on_progress)
    peaks = None if peak is None else parse_peaks(peak)
    return summarize_columns(trace, manifest, peaks, read_columns(Path(capture))[0] if capture is not None else None)


def read_columns(path: Path, *, on_progress: ProgressCallback | None = None) -> tuple[Trace, TraceManifest | None]:
    """Read a trace or a folder of traces into columns, and the manifest beside it, if any."""
    read = read_folder if path.is_dir() else read_trace
    return read(path, on_progress=on_progress), find_manifest(path)


def folded_stacks(trace: Trace) -> list[str]:
    """Return the stacks of Python functions with their own time in us, as `outer;inner 123` for flame graphs.

    The time is that of GPU events, or that of the host for a trace without any. Stacks below 1 us are left out.
    """
    return fold(gather_facts(trace))


def summarize_columns(
    trace: Trace,
    manifest: TraceManifest | None = None,
    peaks: DevicePeaks | None = None,
    capture: Trace | None = None,
) -> Summary:
    """Summarize a trace in memory; the manifest adds rooflines of steps and the spans of graph replays."""
    facts = gather_facts(trace, manifest)
    gpu, devices = summarize_devices(trace, facts.attribution, facts.gaps)
    waits = rank_waits(facts)
    groups = group_steps(facts, waits)
    durations = job_times(facts, groups)
    steps = summarize_steps(facts, groups, durations)
    spans = summarize_spans(facts.spans, facts.costs, facts.mapped)
    cpu, top_ops = summarize_host(facts), summarize_ops(facts)
    costs, limits = phase_costs(facts, groups), roofline(manifest, steps)
    recording, ranks = recording_of(trace, manifest, devices), summarize_ranks(facts, durations)
    repetition, completeness = find_repetition(facts, durations), find_missing(facts)
    gaps, syncs, budget, places = explain_idle_time(facts, groups)
    job, collectives, ranks = summarize_job(facts, waits, groups, budget, ranks, places)
    peaks = peaks or peaks_of(trace)
    memory = summarize_memory(facts)
    captured = gather_facts(capture) if capture is not None else None
    replays = match_replays(facts, captured)
    work = summarize_work(facts, peaks, replays)
    what_if = bounds(facts, gpu, budget, job)
    judged = JudgedTrace(
        gpu=gpu,
        cpu=cpu,
        steps=steps,
        spans=spans,
        top_ops=top_ops,
        repetition=repetition,
        what_if=what_if,
        roofline=limits,
        recording=recording,
        budget=budget,
        completeness=completeness,
        platform=trace.platform,
        host=manifest.host if manifest else None,
        lead_in=lead_in(facts),
        lost_gpu=lost_gpu(trace),
        ranks=ranks,
        job=job,
        collectives=collectives,
        operators=work.operators,
        peaks=peaks,
        memory=memory,
        has_stacks=trace.counts.python_functions > 0,
    )
    verdict, findings = judge(judged, count_work_events(trace), trace.counts.unknown)
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
        budget=budget,
        steps=steps,
        spans=spans,
        gaps=gaps,
        repetition=repetition,
        syncs=syncs,
        what_if=[] if verdict.kind in ("incomplete", "capture") else what_if,
        roofline=limits,
        comparison=None,
        top_ops=top_ops,
        operators=work.operators,
        kernels=work.kernels,
        memory=memory,
        peaks=peaks,
        categories=work.categories,
        modules=work.modules,
        stacks=work.stacks,
        ranks=ranks,
        collectives=collectives,
        job=job,
        typical_step=draw_typical_step(facts, groups, durations),
        verdict=verdict,
        findings=findings,
        completeness=completeness,
        trust=[
            *(replay_notes(replays, capture.path) if capture is not None else []),
            *doubts(facts, steps, completeness, job, ranks, work.operators),
        ],
        recording=recording,
        phase_costs=costs,
    )
