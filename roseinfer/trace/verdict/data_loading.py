"""Rule: the run waits for its input data."""

from roseinfer.trace.naming import duration
from roseinfer.trace.summary.finding_structs import Finding
from roseinfer.trace.verdict.finding_making import FindingMaker, described, per_step, place_of
from roseinfer.trace.verdict.judged_trace import JudgedTrace


def find_data_loading(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about all time that waits for data, named by the place that takes most of it."""
    maker = FindingMaker(judged, "data_loading", "data")
    places, total_ms = judged.places("data_loading"), judged.total.host_ms.data_loading
    if not places or not maker.is_shown(total_ms):
        return []
    first = places[0]
    who = f"The {judged.device}" if judged.gpu else "The run"
    share = 100 * total_ms / judged.total.wall_ms
    longest = "" if first.ms >= 0.99 * total_ms else f"longest, for {duration(first.ms)}, "
    name = first.file or first.name
    if "loader" in name.lower():
        how = "use more DataLoader workers, more prefetching, or cheaper transforms"
    else:
        how = "prepare data ahead of the step in other processes (DataLoader workers), or make it cheaper"
    return [
        maker.make(
            total_ms,
            place_of(first),
            f"{who} waits {per_step(judged, total_ms)} for input data, {share:.0f} % of the time: the host is "
            f"{longest}in {described(first)}.",
            f"The loop waits for its data in {name}: {how}.",
        )
    ]
