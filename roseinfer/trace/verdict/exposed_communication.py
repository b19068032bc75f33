"""Collectives that a GPU waits for, as evidence and advice."""

from roseinfer.trace.naming import duration
from roseinfer.trace.summary.device_structs import RankSummary
from roseinfer.trace.verdict.all_findings import Findings


def exposed_evidence(found: Findings) -> list[str]:
    """Collectives that ran while the device did nothing else, where they take much of its time."""
    rank = _most_exposed(found)
    if rank is None:
        return []
    return [
        f"Collectives take {duration(rank.communication_ms)} on rank {rank.rank}; "
        f"the GPU runs nothing else during {duration(rank.exposed_communication_ms)} of that."
    ]


def exposed_advice(found: Findings) -> list[str]:
    """What to do about them."""
    if _most_exposed(found) is None:
        return []
    return [
        "Overlap communication with computation, or make it smaller; ranks that wait for a slower one show here too."
    ]


def _most_exposed(found: Findings) -> RankSummary | None:
    exposed = [row for row in found.ranks if row.exposed_communication_ms >= 0.1 * row.gpu_ms > 0]
    return max(exposed, key=lambda row: row.exposed_communication_ms, default=None)
