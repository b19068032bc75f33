"""Rule: what the device computes longest."""

from roseinfer.trace.collectives import is_collective
from roseinfer.trace.naming import counted, short_name
from roseinfer.trace.summary.finding_structs import Finding, Place
from roseinfer.trace.verdict.finding_making import FindingMaker
from roseinfer.trace.verdict.judged_trace import JudgedTrace
from roseinfer.trace.verdict.thresholds import ADVISED_PERCENT

_ANY = "lower precision, faster kernels, or less computation"


def find_largest_kernel(judged: JudgedTrace) -> list[Finding]:
    """Return a finding about the kernel with most time, other than collectives; its time is no idle time."""
    kernels = [op for op in judged.top_ops if op.device == "gpu" and not is_collective(op.name) and op.self_ms > 0]
    if not kernels or kernels[0].percent < ADVISED_PERCENT:
        return []
    first = kernels[0]
    maker, busy_ms = FindingMaker(judged, "largest_kernel", "gpu"), min(first.self_ms, judged.total.compute_ms)
    if not maker.is_shown(busy_ms):
        return []
    name = short_name(first.name, 60)
    return [
        maker.make(
            busy_ms,
            Place(kernel=first.name),
            f"{name} takes {first.percent:.0f} % of {judged.device} time in {counted(first.calls, 'run')}.",
            f"To go faster, reduce the {judged.device}'s work, {name} first: {_ANY}.",
        )
    ]
