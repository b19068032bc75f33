"""Rule: copies run while the device computes nothing."""

from roseinfer.trace.copy_names import copy_direction
from roseinfer.trace.naming import counted, duration
from roseinfer.trace.summary.budget_structs import ExposedWork
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding, Place
from roseinfer.trace.verdict.finding_making import FindingMaker, per_step
from roseinfer.trace.verdict.judged_trace import JudgedTrace, in_span

_PLACES = 2


def find_exposed_copies(judged: JudgedTrace) -> list[Finding]:
    """Return one finding per kind of copy that nothing overlaps, the longest first."""
    maker = FindingMaker(judged, "exposed_copy", "copy")
    rows, total_ms = [row for row in judged.exposed if row.kind == "copy"], judged.total.exposed_copy_ms
    shown = [(row, row.exposed_ms) for row in rows[:_PLACES] if maker.is_shown(row.exposed_ms)]
    if not shown and maker.is_shown(total_ms):
        shown = [(row, total_ms) for row in rows[:1]]  # many small ones: the largest stands for all
    found: list[Finding] = []
    for row, exposed_ms in shown:
        by = f"launched by {row.operator or 'Python'} {in_span(row.span)}"
        share = 100 * exposed_ms / judged.total.wall_ms
        others = ", with copies at other places" if exposed_ms > row.exposed_ms else ""
        found.append(
            maker.make(
                exposed_ms,
                Place(span=None if row.span == NO_SPAN else row.span, operator=row.operator, kernel=row.name),
                f"{row.name} ({by}) takes {per_step(judged, row.total_ms)} in {counted(row.count, 'run')}; "
                f"the {judged.device} runs nothing else during {duration(exposed_ms)}, {share:.0f} % of the "
                f"time{others}.",
                _advice(row, by),
            )
        )
    return found


def _advice(row: ExposedWork, by: str) -> str:
    copy, direction = row.name.lower(), copy_direction(row.name)
    if direction == "to_device":
        pin = "pin the host's memory, and " if "pageable" in copy else ""
        return (
            f"Copy the next step's data while this step computes: {pin}launch {row.name} on a stream of its own with "
            f"non_blocking=True ({by})."
        )
    if direction == "to_host":
        return (
            f"Keep the data on the device, or launch {row.name} on a stream of its own into pinned memory, and read it "
            f"one step late ({by})."
        )
    if direction == "between_devices":
        return f"Overlap {row.name} with computation: launch it earlier on a stream of its own, or copy less ({by})."
    if "memset" in copy or "fill" in copy:
        return f"Clear less memory: write results without {row.name} before them ({by})."
    return f"Avoid {row.name}: write in place instead of copying ({by})."
