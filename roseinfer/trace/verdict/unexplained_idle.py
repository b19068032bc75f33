"""Rule: the device idles, and the trace does not hold what the host did."""

from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace


def find_unexplained_idle(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about idle time whose cause was not recorded."""
    maker = FindingMaker(judged, "not_recorded", "host")
    total_ms = judged.total.not_recorded_ms
    if not maker.is_shown(total_ms):
        return []
    places = judged.places("not_recorded")
    longest = places[0].longest_before if places else None
    before = f", longest before {short_name(longest, 60)}" if longest else ""
    return [
        maker.make(
            total_ms,
            Place(kernel=longest),
            f"The {judged.device} idles {duration(total_ms)} before work whose launch is not in the trace{before}.",
            "Record CPU activity too, starting before the first launch: without launches the gaps cannot be explained.",
        )
    ]
