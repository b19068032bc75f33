"""Rule: the run waits for its input data."""

from roseinfer.trace.summary.finding_structs import Finding
from roseinfer.trace.verdict.finding_making import FindingMaker, described, per_step, place_of
from roseinfer.trace.verdict.judged_trace import JudgedTrace

_PLACES = 3


def find_data_loading(judged: JudgedTrace) -> list[Finding]:
    """Return one finding per place that loads data while nothing computes, the longest first."""
    maker = FindingMaker(judged, "data_loading", "data")
    who = f"The {judged.device}" if judged.gpu else "The run"
    found: list[Finding] = []
    for place in judged.places("data_loading")[:_PLACES]:
        if maker.is_shown(place.ms):
            name = place.file or place.name
            found.append(
                maker.make(
                    place.ms,
                    place_of(place),
                    f"{who} waits {per_step(judged, place.ms)} for input data, {place.percent:.0f} % of the time: the "
                    f"host is in {described(place)}.",
                    f"The loop waits for its data in {name}: use more DataLoader workers, more prefetching, or cheaper "
                    "transforms.",
                )
            )
    return found
