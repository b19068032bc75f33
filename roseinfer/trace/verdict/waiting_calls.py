"""Rule: a call makes the host wait although the device has nothing to run."""

from roseinfer.trace.copy_names import copy_direction
from roseinfer.trace.findings.synchronizing_calls import note_on
from roseinfer.trace.summary.budget_structs import IdlePlace
from roseinfer.trace.summary.finding_structs import Finding
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step, place_of
from roseinfer.trace.verdict.judged_trace import JudgedTrace, in_span

_PLACES = 2


def find_waiting_calls(judged: JudgedTrace) -> list[Finding]:
    """Return one finding per place where a waiting call left the device idle; other waits cost nothing."""
    maker = FindingMaker(judged, "synchronizing_call", "host")
    found: list[Finding] = []
    for place, ms in maker.shares(judged.places("synchronizing_calls"), judged.total.host_ms.synchronizing_calls):
        by = f"called by {place.operator or 'Python'}"
        longest = " at many places, longest" if ms > 1.001 * place.ms else ""
        sentence = (
            f"The {judged.device} idles {per_step(judged, ms)} while the host waits{longest} in {place.name} ({by} "
            f"{in_span(place.span)})."
        )
        found.append(maker.make(ms, place_of(place), sentence, _advice(judged, place)))
    return found[:_PLACES]


def _advice(judged: JudgedTrace, place: IdlePlace) -> str:
    where = in_span(place.span)
    if place.operator is None and judged.is_replayed:
        return (
            f"The {judged.device} waits between graph replays, for {place.name} {where}: read results one step late, "
            "so that the host does not wait, or launch several steps at once."
        )
    if "memcpy" in place.name.lower() and copy_direction(place.longest_before or "") == "to_device":
        by = f"called by {place.operator or 'Python'} {where}"
        return (
            f"Pin the host's memory: {place.name} ({by}) first copies pageable memory, while the {judged.device} idles."
        )
    call = f"({place.name}, called by {place.operator or 'Python'})"
    return f"Remove the synchronizing calls {where} {call}: {note_on(place.name, place.operator or '')}."
