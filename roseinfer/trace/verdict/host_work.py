"""Rule: the device waits while the host works for long at one place: an operator, a call, or Python."""

from roseinfer.trace.naming import duration, short_name
from roseinfer.trace.summary.budget_structs import IdlePlace
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.verdict.finding_making import FindingMaker, described, per_step, place_of
from roseinfer.trace.verdict.judged_trace import LAUNCH_CAUSES, JudgedTrace, in_span, launching_ms
from roseinfer.trace.verdict.thresholds import HEALTHY_PERCENT, LONG_STRETCH_US

_PLACES = 3


def find_host_work(judged: JudgedTrace) -> list[Finding]:
    """Return one finding per place with long stretches of idle time, the longest first."""
    maker = FindingMaker(judged, "host_work", "host")
    places = sorted(judged.places(*LAUNCH_CAUSES), key=lambda place: launching_ms(place) - place.ms)
    longest = [(place, place.ms - launching_ms(place)) for place in places]
    found = [
        maker.make(long_ms, place_of(place), _sentence(judged, place, long_ms), _advice(judged, place, long_ms))
        for place, long_ms in longest[:_PLACES]
        if maker.is_shown(long_ms)
    ]
    host = judged.total.host_ms
    total_ms = host.launch_calls + host.operators + host.python - judged.launch_ms
    if found or not longest or 100 * total_ms < HEALTHY_PERCENT * judged.total.wall_ms:
        return found
    return [_of_many_places(judged, longest[0][0], total_ms)]


def _of_many_places(judged: JudgedTrace, longest: IdlePlace, total_ms: float) -> Finding:
    """Return a finding about host work that is spread over so many places that none stands out."""
    return FindingMaker(judged, "host_places", "host").make(
        total_ms,
        Place(),
        f"The {judged.device} waits {per_step(judged, total_ms)} for work of the host at many places, longest for "
        f"{described(longest)} ({duration(longest.ms - launching_ms(longest))}).",
        f"Overlap the host's work with the {judged.device}'s: no place stands out, and {described(longest)} is the "
        "largest.",
    )


def _sentence(judged: JudgedTrace, place: IdlePlace, long_ms: float) -> str:
    before = f"before {short_name(place.longest_before, 60)}" if place.longest_before else "with nothing launched later"
    longest = f"at most {duration(place.longest_ms)} at once, {before}" if place.gaps > 1 else before
    return f"The {judged.device} waits {per_step(judged, long_ms)} for {described(place)}, {longest}."


def _advice(judged: JudgedTrace, place: IdlePlace, long_ms: float) -> str:
    doing, device = described(place), judged.device
    if judged.is_replayed:
        return (
            f"The {device} waits between graph replays, longest for {doing} ({duration(long_ms)}): overlap this work "
            "with the previous step on the GPU, or launch several steps at once."
        )
    if place.cause == "operators":
        calls, mean_us = _calls_of(judged, place.name)
        if calls > 1 and mean_us < LONG_STRETCH_US:
            return (
                f"Call {doing} less often ({calls:,} calls of {mean_us:.1f} us): fuse or compile the code around it, "
                "or run it ahead of time on another thread."
            )
        return (
            f"Move {doing} out of the {device}'s way: run it on the {device}, or ahead of time on another thread, or "
            "make it cheaper."
        )
    if place.cause == "launch_calls":
        by = f"called by {place.operator} " if place.operator else ""
        return (
            f"Find out why {place.name} is slow ({by}{in_span(place.span)}): the first call of a kernel "
            "loads its code, so warm up before recording; otherwise make fewer, larger calls."
        )
    stacks = "" if place.file or judged.has_stacks else " with_stack=True names the functions."
    return f"Overlap the host's work with the {device}'s: the {device} waits {duration(long_ms)} for {doing}.{stacks}"


def _calls_of(judged: JudgedTrace, operator: str) -> tuple[int, float]:
    """Return (calls, mean self time in us) of an operator on the host."""
    row = next((op for op in judged.top_ops if op.device == "cpu" and op.name == operator), None)
    return (row.calls, 1000 * row.self_ms / row.calls) if row else (0, 0.0)
