"""Evidence and advice about exposed communication: collectives during which a GPU runs nothing else."""

from roseinfer.trace.naming import duration
from roseinfer.trace.summary.device_structs import RankSummary
from roseinfer.trace.verdict.all_findings import Findings


def exposed_evidence(found: Findings) -> list[str]:
    """Return a line about the rank with most exposed communication, if this is at least 10 % of its GPU time."""
    rank = _most_exposed(found)
    if rank is None:
        return []
    return [
        f"Collectives take {duration(rank.communication_ms)} on rank {rank.rank}. "
        f"The GPU runs nothing else during {duration(rank.exposed_communication_ms)} of that."
    ]


def exposed_advice(found: Findings) -> list[str]:
    """Return advice to hide or reduce communication, if exposed communication is large enough."""
    if _most_exposed(found) is None:
        return []
    return [
        "Overlap communication with computation, or reduce it. Time that a rank waits for a slower rank counts as "
        "communication too."
    ]


def _most_exposed(found: Findings) -> RankSummary | None:
    exposed = [row for row in found.ranks if row.exposed_communication_ms >= 0.1 * row.gpu_ms > 0]
    return max(exposed, key=lambda row: row.exposed_communication_ms, default=None)
