"""Rule: the device waits while the host works for long at one place: an operator, a call, or Python."""

from collections import defaultdict

from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.budget_structs import IdlePlace
from roseinfer.trace.summary.finding_structs import Finding
from roseinfer.trace.verdict.finding_making import FindingMaker, described, per_step, place_of
from roseinfer.trace.verdict.judged_trace import LAUNCH_CAUSES, JudgedTrace, in_span, launching_ms
from roseinfer.trace.verdict.thresholds import LONG_STRETCH_US

_PLACES = 3
_NAMES = 3


def find_host_work(judged: JudgedTrace) -> list[Finding]:
    """Return findings about long stretches of idle time, the longest first.

    There is one finding per place that is slow itself, and one for stretches of many small operators in one span.
    """
    maker = FindingMaker(judged, "host_work", "host")
    found: list[Finding] = []
    small: defaultdict[str, list[IdlePlace]] = defaultdict(list)
    places = judged.places(*LAUNCH_CAUSES)
    for place in sorted(places, key=lambda place: launching_ms(place) - place.ms):
        long_ms = place.ms - launching_ms(place)
        if 1000 * place.longest_ms < LONG_STRETCH_US:
            small[place.span].append(place)
        elif len(found) < _PLACES and maker.is_shown(long_ms):
            sentence = _sentence(judged, place, long_ms)
            found.append(maker.make(long_ms, place_of(place), sentence, _advice(judged, place, long_ms)))
    found += _of_small_operators(judged, small)
    return sorted(found, key=lambda finding: -finding.saves_ms)


def _of_small_operators(judged: JudgedTrace, small: dict[str, list[IdlePlace]]) -> list[Finding]:
    """Return a finding about the span whose small operators make the device wait longest in long stretches."""
    maker = FindingMaker(judged, "host_operators", "host")
    sums = {span: sum(place.ms - launching_ms(place) for place in places) for span, places in small.items()}
    span = max(sums, key=lambda one: sums[one], default=None)
    if span is None or not maker.is_shown(sums[span]):
        return []
    names = [place.file or place.name or "plain Python" for place in small[span]]
    most = ", ".join(dict.fromkeys(names[:_NAMES]))
    sentence = (
        f"The {judged.device} waits {per_step(judged, sums[span])} for stretches of small operators "
        f"{in_span(span)}: {most} take most."
    )
    advice = (
        f"Run fewer, larger operators {in_span(span)} ({most}): fuse or compile them (torch.compile), or run them "
        "ahead of time."
    )
    return [maker.make(sums[span], place_of(small[span][0]), sentence, advice)]


def _sentence(judged: JudgedTrace, place: IdlePlace, long_ms: float) -> str:
    before = f"before {short_name(place.longest_before, 60)}" if place.longest_before else "with nothing launched later"
    longest = f"once for {duration(place.longest_ms)} {before}" if place.gaps > 1 else before
    return f"The {judged.device} waits {per_step(judged, long_ms)} for {described(place)}, {longest}."


def _advice(judged: JudgedTrace, place: IdlePlace, long_ms: float) -> str:
    doing, device = described(place), judged.device
    if judged.is_replayed:
        return (
            f"The {device} waits between graph replays, longest for {doing} ({duration(long_ms)}): overlap this work "
            "with the previous step on the GPU, or launch several steps at once."
        )
    if place.cause == "operators":
        return (
            f"Move {doing} out of the {device}'s way: run it on the {device}, or ahead of time on another thread, or "
            "make it cheaper."
        )
    if place.cause == "launch_calls":
        return (
            f"Find out why {place.name} is slow ({doing}): the first call of a kernel loads its code, so warm up "
            "before recording; otherwise make fewer, larger calls."
        )
    stacks = "" if place.file or judged.recording.with_stack else " with_stack=True names the functions."
    return f"Overlap the host's work with the {device}'s: the {device} waits {duration(long_ms)} for {doing}.{stacks}"
