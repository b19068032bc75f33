"""The ranks of a job and their collectives as sheets."""

from roseinfer.cli.rendering.table_sheet import Sheet, milliseconds, sheet
from roseinfer.trace.naming import duration
from roseinfer.trace.summary.device_structs import RankSummary
from roseinfer.trace.summary.trace_summary import Summary

MAX_RANKS = 16
"""Ranks and devices with a row of their own. The JSON has all of them."""


def shown_ranks(summary: Summary) -> list[int]:
    """Return the ranks to show: all, or of many the straggler and others at equal distances."""
    ranks = summary.trace.ranks
    if len(ranks) <= MAX_RANKS:
        return ranks
    late = straggler_of(summary)
    places = {round(index * (len(ranks) - 1) / (MAX_RANKS - 2)) for index in range(MAX_RANKS - 1)}
    return sorted({ranks[place] for place in places} | ({late} if late is not None else set()))


def straggler_of(summary: Summary) -> int | None:
    """Return the rank that the others wait for, None without one."""
    return summary.job.straggler.rank if summary.job and summary.job.straggler else None


def left_out(summary: Summary) -> str:
    """Return the end of a title that says how many ranks are not shown: `, 16 of 256`; empty if all are."""
    shown, ranks = len(shown_ranks(summary)), len(summary.trace.ranks)
    return "" if shown == ranks else f", {shown} of {ranks}"


def rank_sheet(summary: Summary) -> Sheet:
    """Return step time, GPU time, communication and waits, one row per rank; GPU figures only of ranks with a GPU."""
    shown = set(shown_ranks(summary))
    rows = [_row(row, summary) for row in summary.ranks if row.rank in shown]
    medians = [row.median_step_ms for row in summary.ranks if row.median_step_ms is not None]
    skew = f", skew of the median step {duration(max(medians) - min(medians))}" if len(medians) > 1 else ""
    columns = ["-Rank", "Step", *(["Busy %", "GPU", "Comm", "Exposed"] if summary.gpu else [])]
    if summary.job:
        columns += ["Wait", "Transfer", "Caused %"]
    return sheet(f"Ranks, ms{left_out(summary)}{skew}", columns, rows)


def _row(row: RankSummary, summary: Summary) -> list[str]:
    cells = [
        f"{row.rank} straggler" if row.rank == straggler_of(summary) else str(row.rank),
        "?" if row.median_step_ms is None else milliseconds(row.median_step_ms),
    ]
    if summary.gpu:
        cells += [
            "?" if row.busy_percent is None else f"{row.busy_percent:.1f}",
            milliseconds(row.gpu_ms),
            milliseconds(row.communication_ms),
            milliseconds(row.exposed_communication_ms),
        ]
    if summary.job:
        waits = (row.wait_ms, row.transfer_ms)
        cells += ["?" if ms is None else milliseconds(ms) for ms in waits]
        cells.append("?" if row.caused_percent is None else f"{row.caused_percent:.0f}")
    return cells


def collective_sheet(summary: Summary, top: int) -> Sheet:
    """Return counts, transfer and waits of the `top` kinds of collectives that are matched over ranks."""
    rows = [
        [
            row.name,
            row.group or "?",
            str(len(row.ranks)),
            f"{row.count:,}",
            milliseconds(row.transfer_ms),
            milliseconds(sum(row.wait_ms_by_rank.values()) / len(row.ranks)),
            milliseconds(row.largest_wait_ms),
            f"{row.hidden_percent:.0f}",
            "?" if row.bytes is None else f"{row.bytes / 1e6:,.3g}",
            "?" if row.bus_gb_per_s is None else f"{row.bus_gb_per_s:,.1f}",
        ]
        for row in summary.collectives[:top]
    ]
    columns = ("*Collective", "-Group", "Ranks", "Count", "Transfer", "Wait", "Longest", "Hidden %", "MB", "GB/s")
    return sheet("Collectives per rank, ms", columns, rows)
