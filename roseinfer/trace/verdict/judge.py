"""The verdict on a trace: what limits the run, the evidence, and what to do."""

from collections.abc import Callable

from roseinfer.trace.summary.finding_structs import Finding
from roseinfer.trace.summary.trace_summary import Verdict
from roseinfer.trace.verdict.allocation_calls import find_allocation_calls
from roseinfer.trace.verdict.cpu_verdict import cpu_findings, judge_cpu
from roseinfer.trace.verdict.data_loading import find_data_loading
from roseinfer.trace.verdict.device_queue import find_queue_waits
from roseinfer.trace.verdict.device_verdict import judge_device
from roseinfer.trace.verdict.exposed_communication import find_exposed_communication
from roseinfer.trace.verdict.exposed_copies import find_exposed_copies
from roseinfer.trace.verdict.finding_making import with_distinct_keys
from roseinfer.trace.verdict.host_work import find_host_work
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.largest_kernels import find_largest_kernel
from roseinfer.trace.verdict.launch_overhead import find_launch_overhead
from roseinfer.trace.verdict.memory_growth import find_memory_growth
from roseinfer.trace.verdict.no_verdict import judge_capture, judge_empty, judge_incomplete, judge_instant
from roseinfer.trace.verdict.operator_rooflines import find_far_from_bound, find_unused_tensor_cores
from roseinfer.trace.verdict.rank_waits import find_rank_waits
from roseinfer.trace.verdict.unexplained_idle import find_unexplained_idle
from roseinfer.trace.verdict.verdict_kind import ReducibleCause
from roseinfer.trace.verdict.verdict_lines import MAX_ADVICE, MAX_EVIDENCE
from roseinfer.trace.verdict.waiting_calls import find_waiting_calls

Rule = Callable[[JudgedTrace], list[Finding]]

_HOST_RULES: tuple[Rule, ...] = (find_waiting_calls, find_allocation_calls, find_launch_overhead, find_host_work)
_RULES: dict[ReducibleCause, tuple[Rule, ...]] = {
    "host": _HOST_RULES,
    "data": (find_data_loading,),
    "communication": (find_exposed_communication,),
    "waiting": (find_rank_waits,),
    "copy": (find_exposed_copies,),
    "queue": (find_queue_waits,),
    "not_recorded": (find_unexplained_idle,),
}
"""Rules by the share of the budget that they explain. To add a rule, write a file like the others and add it here."""


def judge(judged: JudgedTrace, work_events: int, unknown_events: int) -> tuple[Verdict, list[Finding]]:
    """Return the verdict, and the findings that it is made from, the largest cause first.

    `work_events` is the number of events that show work; `unknown_events` that of ignored events of other tools.
    """
    if work_events == 0:
        return judge_empty(unknown_events), []
    if judged.budget is None:
        return judge_instant(work_events), []
    if judged.is_capture:
        return judge_capture(judged), []
    if not judged.completeness.complete:
        return judge_incomplete(judged), []
    if judged.gpu is None:
        findings = cpu_findings(judged)
        verdict = judge_cpu(judged, findings)
    else:
        findings = device_findings(judged)
        verdict = judge_device(judged, findings)
    growth = find_memory_growth(judged)
    return _with_growth(verdict, growth), with_distinct_keys(findings + growth)


def _with_growth(verdict: Verdict, growth: list[Finding]) -> Verdict:
    """Return the verdict with the growth of memory as its last evidence and advice."""
    if not growth:
        return verdict
    return Verdict(
        kind=verdict.kind,
        headline=verdict.headline,
        evidence=[*verdict.evidence[: MAX_EVIDENCE - 1], growth[0].sentence],
        advice=[*verdict.advice[: MAX_ADVICE - 1], growth[0].advice],
    )


def device_findings(judged: JudgedTrace) -> list[Finding]:
    """Return what could be reduced: the largest cause first, and within the host's causes the largest rule first.

    A rule orders its own findings: repeated launches that can be batched away come before all launches of the step. The
    largest kernel is last, since its time is no waiting time.
    """
    found: list[Finding] = []
    for cause in judged.shares.reducible:
        of_rules = [rule(judged) for rule in _RULES[cause]]
        for findings in sorted(of_rules, key=_largest, reverse=True):
            found += findings
    return [*found, *find_unused_tensor_cores(judged), *find_far_from_bound(judged), *find_largest_kernel(judged)]


def _largest(findings: list[Finding]) -> float:
    return max((finding.share_percent for finding in findings), default=0.0)
