"""A lane per rank for the HTML page: what each rank did in a step, with its waits for other ranks."""

from roseinfer.cli.rendering.budget_bars import BarPart, StackedBar
from roseinfer.cli.rendering.budget_sheets import PARTS
from roseinfer.cli.rendering.rank_sheets import left_out, shown_ranks, straggler_of
from roseinfer.cli.rendering.table_sheet import milliseconds
from roseinfer.trace.summary.budget_structs import DeviceBudget
from roseinfer.trace.summary.trace_summary import Summary

_WAITING = ("waiting", "waits for other ranks")
_LABELS = {"communication": "transfer"}
"""Names of parts that a lane splits."""


def rank_lanes(summary: Summary) -> list[StackedBar]:
    """Return a lane per rank, as long as its recording; no lanes without matched collectives."""
    if summary.job is None or summary.budget is None:
        return []
    waits = {row.rank: row.exposed_wait_ms or 0.0 for row in summary.ranks}
    rows: dict[int, list[DeviceBudget]] = {}
    for one in summary.budget.devices:
        rows.setdefault(one.rank, []).append(one)
    longest = max(sum(one.wall_ms for one in some) for some in rows.values())
    late = straggler_of(summary)
    lanes: list[StackedBar] = []
    for rank in shown_ranks(summary):
        budgets = rows.get(rank, [])
        wall_ms = sum(one.wall_ms for one in budgets)
        if wall_ms <= 0:
            continue
        parts = [_part(css, label, ms, wall_ms) for css, label, ms in _times(budgets, waits.get(rank, 0.0)) if ms > 0]
        title = f"rank {rank}{', the straggler' if rank == late else ''}: {milliseconds(wall_ms)} ms"
        lanes.append(
            StackedBar(title, parts, "; ".join(part.title for part in parts), round(100 * wall_ms / longest, 2))
        )
    return lanes


def lane_title(summary: Summary) -> str:
    """Return the heading of the lanes."""
    return f"Ranks{left_out(summary)}: work, transfer and waits for each other"


def lane_key(lanes: list[StackedBar]) -> list[tuple[str, str]]:
    """Return (CSS class, label) of each part that a lane shows."""
    used = {part.css for lane in lanes for part in lane.parts}
    labels = [(part.key, _LABELS.get(part.key, part.label)) for part in PARTS]
    return [(css, label) for css, label in [*labels[:2], _WAITING, *labels[2:]] if css in used]


def _times(budgets: list[DeviceBudget], wait_ms: float) -> list[tuple[str, str, float]]:
    """Return (CSS class, label, ms) of each part, with the exposed communication split into transfer and wait."""
    times = [
        (part.key, _LABELS.get(part.key, part.label), sum(part.ms(budget) for budget in budgets)) for part in PARTS
    ]
    css, label, exposed_ms = times[1]
    waited = min(wait_ms, exposed_ms)
    return [times[0], (css, label, exposed_ms - waited), (*_WAITING, waited), *times[2:]]


def _part(css: str, label: str, ms: float, wall_ms: float) -> BarPart:
    share = 100 * ms / wall_ms
    short = f"{share:.0f} %" if share >= 9 else ""
    return BarPart(css, round(share, 3), short, f"{label}: {milliseconds(ms)} ms, {share:.1f} %")
