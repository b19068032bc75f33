"""Rule: the device waits while the host allocates or frees its memory."""

from roseinfer.trace.naming import counted
from roseinfer.trace.summary.finding_structs import Finding
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step, place_of
from roseinfer.trace.verdict.judged_trace import JudgedTrace, in_span


def find_allocation_calls(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the calls that allocate device memory, named by the longest."""
    maker = FindingMaker(judged, "allocation", "host")
    places = judged.places("allocation")
    total_ms = judged.total.host_ms.allocation
    if not places or not maker.is_shown(total_ms):
        return []
    first = places[0]
    settings = {"cuda": "PYTORCH_CUDA_ALLOC_CONF", "rocm": "PYTORCH_HIP_ALLOC_CONF"}.get(judged.platform)
    segments = f" {settings}=expandable_segments:True avoids fragmentation." if settings else ""
    return [
        maker.make(
            total_ms,
            place_of(first),
            f"The {judged.device} idles {per_step(judged, total_ms)} while the host allocates or frees memory, longest "
            f"in {first.name} {in_span(first.span)}, at {counted(first.gaps, 'place')} of the timeline.",
            f"Allocate before the loop, and keep shapes constant, so that {first.name} is not called in a step: the "
            f"allocator then reuses its memory.{segments}",
        )
    ]
