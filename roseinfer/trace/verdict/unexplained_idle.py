"""Rule: the device idles, and the trace does not hold what the host launched, or what the device ran."""

from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.no_verdict import LONGER_REMEDY, REMEDIES

_LOST_EVENTS = (
    "impossible_times",
    "gpu_during_wait",
    "gpu_head",
    "gpu_tail",
    "launch_without_event",
    "graph_without_kernels",
)
"""Kinds of missing records during which the device worked although the trace shows it idle."""


def find_unexplained_idle(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about idle time whose cause was not recorded."""
    maker = FindingMaker(judged, "not_recorded", "host")
    total_ms = judged.total.not_recorded_ms
    if not maker.is_shown(total_ms):
        return []
    places = judged.places("not_recorded")
    longest = places[0].longest_before if places else None
    before = f", longest before {short_name(longest, 60)}" if longest else ""
    if lacks_launches(judged):
        sentence = (
            f"The {judged.device} idles {duration(total_ms)} before work whose launch is not in the trace{before}."
        )
        advice = (
            "Record CPU activity too, starting before the first launch: without launches the gaps cannot be explained."
        )
    else:
        sentence = (
            f"The {judged.device} shows no work for {duration(total_ms)} in which it ran something that is not in the "
            f"trace{before}."
        )
        kinds = [one.kind for one in judged.completeness.missing if one.kind in _LOST_EVENTS]
        advice = REMEDIES[kinds[0]] if kinds else LONGER_REMEDY
    return [maker.make(total_ms, Place(kernel=longest), sentence, advice)]


def lacks_launches(judged: JudgedTrace) -> bool:
    """True if launches are missing for most of the unexplained idle time; else events of the device are missing."""
    unlinked_ms = judged.gpu.idle_by_cause.unlinked_ms if judged.gpu else 0.0
    return 2 * unlinked_ms >= judged.total.not_recorded_ms
