"""The verdict on a run with a device: headline, evidence and advice from its findings."""

from roseinfer.trace.naming import counted, duration, short_name
from roseinfer.trace.summary.device_structs import GpuSummary
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding
from roseinfer.trace.summary.trace_summary import Verdict, VerdictKind
from roseinfer.trace.verdict.device_queue import is_one_wait
from roseinfer.trace.verdict.judged_trace import JudgedTrace, events_of, in_span
from roseinfer.trace.verdict.rank_waits import rank_headline
from roseinfer.trace.verdict.thresholds import ADVISED_PERCENT, SHOWN_PERCENT
from roseinfer.trace.verdict.unexplained_idle import lacks_launches
from roseinfer.trace.verdict.verdict_lines import MAX_ADVICE, MAX_EVIDENCE, distinct_lines

_CAUSES = {
    "host": "host time",
    "data": "data loading",
    "communication": "exposed communication",
    "waiting": "waits of ranks for each other",
    "copy": "exposed copies",
    "queue": "time in the device's queue",
}


_OF_WORK = ("largest_kernel", "no_tensor_cores", "far_from_bound")
"""Rules about the time in which the device works, which come after those about the time in which it waits."""
_MIN_EVIDENCE = 2
_NO_CAUSE = "Record more steps: no place takes enough of the time to be named."
_NO_KERNEL = "To go faster, compute less: no single kernel stands out."


def judge_device(judged: JudgedTrace, findings: list[Finding]) -> Verdict:
    """Return the verdict on a complete recording of a run with a device."""
    gpu = judged.gpu
    assert gpu is not None
    kind = judged.kind
    if kind == "gpu_bound":
        return Verdict(kind, _healthy(judged), _gpu_bound_evidence(judged, gpu, findings), _gpu_bound_advice(findings))
    reducible = [finding for finding in findings if finding.id not in _OF_WORK]
    evidence = [_budget_line(judged), *_replays(judged, gpu), *(finding.sentence for finding in reducible)]
    evidence[MAX_EVIDENCE - 2 :] = [] if _earlier_work(judged) else evidence[MAX_EVIDENCE - 2 :]
    evidence += _earlier_work(judged)
    evidence += [finding.sentence for finding in findings if finding.id in ("largest_kernel", "no_tensor_cores")]
    if len(evidence) < _MIN_EVIDENCE:
        evidence.append(
            f"{counted(gpu.gpu_events, f'{judged.device} event')} with a median duration of "
            f"{gpu.median_event_us:,.1f} us, started by {counted(gpu.launches, 'launch')} in the trace."
        )
    advice = [finding.advice for finding in reducible] or [finding.advice for finding in findings] or [_NO_CAUSE]
    if judged.what_if and kind in ("host_bound", "balanced"):
        best = judged.what_if[0]
        bound = f"Upper bound: {best.change} saves at most {best.saves_ms:,.1f} ms ({best.speedup:.2f}x)."
        advice = [*distinct_lines(advice, MAX_ADVICE - 1), bound]
    return Verdict(
        kind,
        _headline(judged, kind, reducible),
        distinct_lines(evidence, MAX_EVIDENCE),
        distinct_lines(advice, MAX_ADVICE),
    )


def works(judged: JudgedTrace) -> str:
    """Return `the GPU works 41.4 % of the time`, with the share of the wall time in which it ran anything."""
    total = judged.total
    busy = total.compute_ms + total.exposed_communication_ms + total.exposed_copy_ms
    share = 100 * busy / total.wall_ms if total.wall_ms else 0
    left_out = f" ({duration(judged.unknown_ms)} before its first event left out)" if judged.unknown_ms > 0 else ""
    return f"the {judged.device} is busy {share:.1f} % of the time{left_out}"


def _healthy(judged: JudgedTrace) -> str:
    return f"Healthy, {judged.device}-bound: {works(judged)}; nothing to fix on the host."


def _headline(judged: JudgedTrace, kind: VerdictKind, findings: list[Finding]) -> str:
    share = judged.shares
    largest = share.reducible[share.largest]
    first = findings[0] if findings else None
    where = _where(judged, first) if first else ""
    if kind == "host_bound":
        return _host_bound(judged, first)
    if kind == "data_bound":
        return f"Data-bound: the {judged.device} waits {largest:.1f} % of the time for input data{where}."
    if kind in ("straggler", "imbalanced"):
        return rank_headline(judged)
    if kind == "communication_bound":
        return f"Communication-bound: {largest:.1f} % of the time is {_communication(judged)}{where}."
    if kind == "copy_bound":
        return f"Copy-bound: {largest:.1f} % of the time is exposed copies{where}."
    name = "Balanced" if share.compute >= 70 else "Mixed"
    if share.largest == "not_recorded":
        lacking = "launches" if lacks_launches(judged) else f"{judged.device} events"
        return f"{name}: {works(judged)}; most of its idle time is unexplained, because {lacking} are not in the trace."
    cause = _communication(judged) if share.largest == "communication" else _CAUSES[share.largest]
    return f"{name}: {works(judged)}; the largest share to reduce is {cause}, {largest:.1f} %{where}."


def _communication(judged: JudgedTrace) -> str:
    """Return what the share of communication is of: it has no waits of ranks, which the budget counts with it."""
    return f"{_CAUSES['communication']}{' other than waits' if judged.waits_ms > 0 else ''}"


def _where(judged: JudgedTrace, finding: Finding) -> str:
    """Return the most telling name of a finding's place, to end a sentence with."""
    place = finding.where
    if finding.id == "host_work" and not (place.file or place.operator):
        return f", longest in plain Python {in_span(place.span or NO_SPAN)}"
    name = place.file or place.kernel or place.operator or place.span
    where = "longest in"
    if finding.id == "device_queue" and place.kernel:
        where = "most of it before" if is_one_wait(judged) else "longest before"
    return f", {where} {short_name(name.removeprefix('void '), 72)}" if name else ""


def _host_bound(judged: JudgedTrace, first: Finding | None) -> str:
    headline = f"Host-bound: {works(judged)} and waits for the host"
    if judged.is_replayed:
        headline += " between graph replays"
    if first is None:
        return f"{headline}."
    span = judged.first_span
    if first.id in ("repeated_launches", "launch_overhead") and span is not None:
        return f"{headline}; start with {span[0].name} ({events_of(judged, span[0])})."
    place = first.where
    if first.id == "host_places":
        return f"{headline}, at many places ({duration(first.saves_ms)})."
    if first.id == "repeated_launches" and not judged.is_replayed:
        repeats = f"the launches repeated {in_span(place.span or NO_SPAN)}"
        return f"{headline}; start with {repeats} (the {judged.device} waits {duration(first.saves_ms)} for them)."
    if first.id == "launch_overhead" and not judged.is_replayed:
        longest = f", longest in {place.operator}" if place.operator else ""
        return f"{headline}, mostly from one launch to the next ({duration(first.saves_ms)}{longest})."
    if first.id == "host_work" and judged.is_replayed and place.span is None and place.file is None:
        return f"{headline}, mostly outside all spans ({duration(first.saves_ms)})."
    name = place.file or (place.span if judged.is_replayed else None) or place.operator
    if name is None and first.id == "host_work":
        where = in_span(place.span or NO_SPAN)
        return f"{headline}, mostly for plain Python {where} ({duration(first.saves_ms)})."
    name = name or place.span
    if name is None:
        return f"{headline}, mostly outside all spans ({duration(first.saves_ms)})."
    inside = f" {in_span(place.span)}" if place.span not in (None, NO_SPAN, name) else ""
    return f"{headline}; start with {name}{inside} ({duration(first.saves_ms)} of idle time)."


def _budget_line(judged: JudgedTrace) -> str:
    """Return the whole budget in one sentence, the parts in order of their size."""
    total, host = judged.total, judged.total.host_ms
    parts = {
        "in data loading": host.data_loading,
        "in waiting calls": host.synchronizing_calls,
        "in allocation calls": host.allocation,
        "in launch calls": host.launch_calls,
        "in operators on the host": host.operators,
        "in Python": host.python,
        "in the device's queue": total.queue_ms,
        "unexplained": total.not_recorded_ms,
    }
    idle = total.wall_ms - total.compute_ms - total.exposed_communication_ms - total.exposed_copy_ms
    busy = {
        "computes": total.compute_ms,
        "communicates": total.exposed_communication_ms,
        "copies": total.exposed_copy_ms,
    }
    shown = {name: ms for name, ms in parts.items() if 100 * ms >= SHOWN_PERCENT * total.wall_ms and ms > 0}
    causes = ", ".join(f"{duration(shown[name])} {name}" for name in sorted(shown, key=lambda one: -shown[one]))
    does = ", ".join(f"{name} for {duration(ms)}" for name, ms in busy.items() if ms > 0 or name == "computes")
    first = ""
    lead_in_ms = judged.lead_in.total_ms - judged.unknown_ms
    if 100 * lead_in_ms >= SHOWN_PERCENT * total.wall_ms and lead_in_ms > 0:
        first = f" {duration(lead_in_ms)} of that pass before its first event."
    return (
        f"Of {duration(total.wall_ms)}{judged.on_several}, the {judged.device} {does}, and is idle for "
        f"{duration(max(0.0, idle))}{': ' + causes if causes else ''}.{first}"
    )


def _replays(judged: JudgedTrace, gpu: GpuSummary) -> list[str]:
    """Return a line about graph replays, if they run most of the GPU events."""
    if not judged.is_replayed:
        return []
    phase, row = judged.slowest
    if row is None:
        return [f"Graph replays run {gpu.replayed_percent:.0f} % of the GPU events."]
    return [
        f"{phase}: graph replays run {row.replayed_percent:.0f} % of the GPU events, with {row.launches_per_step:,.1f} "
        f"launches per step; the {judged.device} works for {duration(row.gpu_ms_per_step)} per step."
    ]


def _earlier_work(judged: JudgedTrace) -> list[str]:
    """Return a line about the time before the first event in which the device may have worked, if it is long."""
    unknown_ms = judged.unknown_ms
    if unknown_ms <= 0:
        return []
    return [
        f"{duration(unknown_ms)} before the first event of the {judged.device} do not count: it may have run work from "
        "before the recording, which is not in the trace."
    ]


def _gpu_bound_evidence(judged: JudgedTrace, gpu: GpuSummary, findings: list[Finding]) -> list[str]:
    total = judged.total
    idle = total.wall_ms - total.compute_ms - total.exposed_communication_ms - total.exposed_copy_ms
    evidence = [
        f"The {judged.device} is busy for {duration(total.wall_ms - idle)} of {duration(total.wall_ms)} and idle for "
        f"{duration(max(0.0, idle))}, in {counted(gpu.gpu_events, f'{judged.device} event')}."
    ]
    evidence += [finding.sentence for finding in findings if finding.id == "largest_kernel"]
    evidence += _earlier_work(judged)
    evidence += [finding.sentence for finding in findings if finding.id not in _OF_WORK][:1]
    if gpu.small_percent >= 20:
        evidence.append(
            f"{gpu.small_percent:.0f} % of {judged.device} events are shorter than 5 us, but the "
            f"{judged.device} does not wait for launches."
        )
    if gpu.median_launch_to_start_us >= 1000:
        ahead = duration(gpu.median_launch_to_start_us / 1000)
        evidence.append(f"The host runs ahead: launched work waits {ahead} in the queue (median), which costs nothing.")
    evidence += [finding.sentence for finding in findings if finding.id == "no_tensor_cores"]
    evidence += [finding.sentence for finding in findings if finding.id == "far_from_bound"][:1]
    for phase, row in list(judged.steps.phases.items())[:2]:
        evidence.append(
            f"{phase}: {duration(row.gpu_ms_per_step)} of {judged.device} work per step, in "
            f"{counted(round(row.gpu_events_per_step), 'event')}."
        )
    return distinct_lines(evidence, MAX_EVIDENCE)


def _gpu_bound_advice(findings: list[Finding]) -> list[str]:
    kernels = [finding.advice for finding in findings if finding.id == "largest_kernel"] or [_NO_KERNEL]
    others = [
        finding.advice
        for finding in findings
        if finding.id not in _OF_WORK and finding.share_percent >= ADVISED_PERCENT
    ]
    works = [finding.advice for finding in findings if finding.id in ("no_tensor_cores", "far_from_bound")]
    return distinct_lines([f"Nothing to fix on the host. {' '.join(kernels)}".strip(), *others, *works], 3)
