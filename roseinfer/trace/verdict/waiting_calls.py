"""Rule: a call makes the host wait although the device has nothing to run."""

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
    for place in judged.places("synchronizing_calls")[:_PLACES]:
        if maker.is_shown(place.ms):
            by = f"called by {place.operator or 'Python'}"
            found.append(
                maker.make(
                    place.ms,
                    place_of(place),
                    f"The {judged.device} idles {per_step(judged, place.ms)} while the host waits in {place.name} "
                    f"({by} {in_span(place.span)}).",
                    _advice(judged, place),
                )
            )
    return found


def _advice(judged: JudgedTrace, place: IdlePlace) -> str:
    where = in_span(place.span)
    if place.operator is None and judged.is_replayed:
        return (
            f"The {judged.device} waits between graph replays, for {place.name} {where}: read results one step late, "
            "so that the host does not wait, or launch several steps at once."
        )
    call = f"({place.name}, called by {place.operator or 'Python'})"
    return f"Remove the synchronizing calls {where} {call}: {note_on(place.name, place.operator or '')}."
