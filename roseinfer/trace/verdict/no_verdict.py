"""Verdicts on traces that cannot say what limits a run: empty ones, incomplete ones, and captures of graphs."""

from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.completeness_structs import MissingKind, MissingRecords
from roseinfer.trace.summary.trace_summary import Verdict
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.verdict_lines import MAX_EVIDENCE, distinct_lines

LONGER_REMEDY = "Record a shorter part of the run, or fewer events per step, so that the profiler keeps all records."
_START = "Start the profiler before the first launch, and end it after a synchronize, so that no record is cut off."
REMEDIES: dict[MissingKind, str] = {
    "gpu_not_recorded": "Record the device too (ProfilerActivity.CUDA, XPU or MTIA), and check that no other profiler "
    "uses it.",
    "gpu_head": _START,
    "gpu_tail": LONGER_REMEDY,
    "gpu_during_wait": "Record again: what the device did while the host waited is not in the trace. Do not cut a "
    "trace by time or by name.",
    "launch_without_event": LONGER_REMEDY,
    "event_without_launch": "Record CPU activity too, starting before the first launch.",
    "graph_without_kernels": "Start the profiler before the graphs are captured: some versions record the kernels of "
    "replays only then.",
    "graph_replays_differ": LONGER_REMEDY,
    "overlapping_kernels": "Record again: kernels of one stream cannot overlap, so their times are wrong.",
    "impossible_times": "Record again: the clock of these events is wrong.",
    "file_truncated": "Copy the whole file, or record it again.",
}


def judge_empty(unknown_events: int) -> Verdict:
    """Return the verdict on a trace without work."""
    if unknown_events:
        return Verdict(
            "empty",
            "Empty: the trace holds no operators, no spans and no GPU events of torch.profiler.",
            [f"The file holds {counted(unknown_events, 'event')} of kinds that torch.profiler does not write."],
            ["Give a trace that torch.profiler's export_chrome_trace wrote; traces of other tools cannot be read."],
        )
    return Verdict(
        "empty",
        "Empty: the trace holds no operators, no spans and no GPU events.",
        ["The recording ended before its first active step, or nothing ran while it was active."],
        [
            "Record more steps than wait + warmup, call the profiler's step() once per step, and export inside "
            "on_trace_ready: a later export writes the next cycle, which is empty."
        ],
    )


def judge_instant(work_events: int) -> Verdict:
    """Return the verdict on a trace whose events all have the same time and no duration."""
    return Verdict(
        "empty",
        "Empty: the events of the trace take no time.",
        [
            f"The trace holds {counted(work_events, 'event')} of work, from its first to its last instant 0 ns.",
            "Times in a trace are in microseconds, with three decimals.",
        ],
        ["Record again, and check the field dur of the events: a tool may have rounded it."],
    )


def judge_incomplete(judged: JudgedTrace) -> Verdict:
    """Return the verdict on a trace from which so much is missing that its busy share would mislead."""
    missing = sorted(judged.completeness.missing, key=lambda one: not one.decisive)
    first = missing[0]
    decisive = [one for one in missing if one.decisive]
    evidence = _evidence(judged, first)
    evidence += [f"{_without_stop(one.what)}." for one in missing[1:]]
    advice = [REMEDIES[one.kind] for one in decisive or missing]
    if first.kind == "file_truncated" and judged.lost_gpu is not None:
        headline = (
            f"Incomplete: the file breaks off, and the GPU events of {judged.lost_gpu} are missing; only the host's "
            "side can be read."
        )
        return Verdict("incomplete", headline, distinct_lines(evidence, MAX_EVIDENCE), distinct_lines(advice, 3))
    what = _without_stop(first.what)
    headline = f"Incomplete: {what[0].lower()}{what[1:]}. The trace cannot say what limits the run."
    return Verdict("incomplete", headline, distinct_lines(evidence, MAX_EVIDENCE), distinct_lines(advice, 3))


def _evidence(judged: JudgedTrace, first: MissingRecords) -> list[str]:
    """Return where records are missing, and what is recorded."""
    gpu, wall_ms = judged.gpu, judged.total.wall_ms
    recorded = f"{counted(gpu.gpu_events, 'GPU event')} of {counted(gpu.launches, 'launch')}" if gpu else "no GPU event"
    lines = [f"The recording of {duration(wall_ms)} holds {recorded}: a share of it without the others would mislead."]
    if first.from_ms is not None and first.to_ms is not None:
        lines.insert(0, f"Records are missing from {first.from_ms:,.1f} to {first.to_ms:,.1f} ms into the recording.")
    return lines if len(lines) > 1 else [f"{_without_stop(first.what)}.", *lines]


def _without_stop(sentence: str) -> str:
    return sentence.rstrip().rstrip(".")


def judge_capture(judged: JudgedTrace) -> Verdict:
    """Return the verdict on a recording of a graph capture, whose kernels run only when the graph is replayed."""
    graph, capture = judged.graph or "graph", judged.completeness.capture
    launches = capture.launches if capture else 0
    return Verdict(
        "capture",
        f"Capture: a {graph} is being captured; its kernels run at replay, so the trace says nothing about speed.",
        [
            f"{counted(launches, 'launch')} went into the {graph} and started no kernel.",
            f"The {judged.device} ran {counted(judged.gpu.gpu_events if judged.gpu else 0, 'event')} besides, in "
            f"{duration(judged.total.wall_ms)}.",
        ],
        [f"Record steps that replay the {graph}: start the active steps after the capture."],
    )
