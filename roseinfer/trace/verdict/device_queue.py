"""Rule: work that was launched in time starts late."""

from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.budget_structs import IdlePlace
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step, place_of
from roseinfer.trace.verdict.judged_trace import JudgedTrace, in_span
from roseinfer.trace.verdict.thresholds import LONG_STRETCH_US, ONE_WAIT, SMALL_GAP_US


def longest_wait(judged: JudgedTrace) -> IdlePlace:
    """Return the place of the longest wait in the queue, of a trace with such waits.

    The wait for the first event does not count: the device may have run work from before the recording.
    """
    total_ms = judged.total.queue_ms
    return max(judged.places("queue"), key=lambda place: place.longest_ms if place.longest_ms <= total_ms else 0.0)


def is_one_wait(judged: JudgedTrace) -> bool:
    """True if a single wait is most of the idle time in the queue."""
    return longest_wait(judged).longest_ms >= ONE_WAIT * judged.total.queue_ms


def find_queue_waits(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the idle time in the queue: one long wait by name, else what a typical wait is."""
    maker = FindingMaker(judged, "device_queue", "gpu")
    places = judged.places("queue")
    total_ms = judged.total.queue_ms
    if not places or not maker.is_shown(total_ms):
        return []
    first, count, device = longest_wait(judged), sum(place.gaps for place in places), judged.device
    if is_one_wait(judged):
        before = short_name(first.longest_before or "the end", 60)
        sentence = (
            f"The {device} idles {duration(total_ms)} after launches, {duration(first.longest_ms)} of it at one place: "
            f"{before}, {in_span(first.span)}, was launched and started that much later."
        )
        advice = (
            f"Find out what {before} waited for ({in_span(first.span)}): an event or copy of another stream, another "
            "process on the device, or records that are missing."
        )
        where = Place(span=place_of(first).span, kernel=first.longest_before)
        return [maker.make(total_ms, where, sentence, advice)]
    long_ms = min(total_ms, sum(place.ms - place.short_ms for place in places))
    if long_ms >= ONE_WAIT * total_ms and 1000 * first.longest_ms >= LONG_STRETCH_US:
        return [_long_waits(judged, maker, first, long_ms)]
    apart = f"{1000 * total_ms / count:.1f} us"
    sentence = (
        f"{device[0].upper()}{device[1:]} events that were launched in time start {per_step(judged, total_ms)} late in "
        f"total: {count:,} times, "
        f"{apart} on average, longest {in_span(places[0].span)}."
    )
    if 1000 * total_ms < SMALL_GAP_US * count:
        early = ", or let them start early (programmatic dependent launch)" if judged.platform == "cuda" else ""
        advice = (
            f"Fuse kernels{early}: the {device} idles {apart} on average between kernels that are already launched."
        )
    else:
        advice = (
            "Look for waits between streams, for copies, and for chains of tiny kernels: "
            f"{device} events that were launched in time start {duration(total_ms)} late in total."
        )
    return [maker.make(total_ms, place_of(places[0]), sentence, advice)]


def _long_waits(judged: JudgedTrace, maker: FindingMaker, first: IdlePlace, long_ms: float) -> Finding:
    """Return the finding about several long waits, named by the longest."""
    before, total_ms = short_name(first.longest_before or "the end", 60), judged.total.queue_ms
    return maker.make(
        total_ms,
        Place(span=place_of(first).span, kernel=first.longest_before),
        f"The {judged.device} idles {per_step(judged, total_ms)} after launches, {duration(long_ms)} of it in gaps of "
        f"200 us or more; the longest is {duration(first.longest_ms)}, before {before}, {in_span(first.span)}.",
        f"Find out what {before} waited for ({in_span(first.span)}): an event or copy of another stream, another "
        "process on the device, or records that are missing.",
    )
