"""Build findings from places of idle time and from totals."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from roseinfer.trace.collectives import function_name
from roseinfer.trace.naming import duration
from roseinfer.trace.summary.budget_structs import IdlePlace
from roseinfer.trace.summary.finding_structs import NO_SPAN, Finding, FindingKind, Place
from roseinfer.trace.summary.units import to_percent
from roseinfer.trace.verdict.judged_trace import JudgedTrace, in_span
from roseinfer.trace.verdict.thresholds import SHOWN_PERCENT

_CALLS = ("synchronizing_calls", "allocation", "launch_calls")
"""Causes whose places are runtime calls: the call names a place that no operator and no function is around."""


class FindingMaker:
    """Builds findings of one rule, with shares of the trace's wall time."""

    def __init__(self, judged: JudgedTrace, rule: str, kind: FindingKind) -> None:
        self._wall_ms, self._rule, self._kind = judged.total.wall_ms, rule, kind

    def is_shown(self, ms: float) -> bool:
        """True if a part of the wall time is large enough for a finding."""
        return ms > 0 and to_percent(ms, self._wall_ms) >= SHOWN_PERCENT

    def shares(self, places: Sequence[IdlePlace], total_ms: float) -> list[tuple[IdlePlace, float]]:
        """Return the places that are large enough, with their time.

        If a total consists of small places only, the largest stands for all of them.
        """
        shown = [(place, place.ms) for place in places if self.is_shown(place.ms)]
        return shown or [(place, total_ms) for place in places[:1] if self.is_shown(total_ms)]

    def make(self, ms: float, where: Place, sentence: str, advice: str) -> Finding:
        """Return a finding about `ms` of the wall time."""
        return Finding(
            id=self._rule,
            kind=self._kind,
            share_percent=to_percent(ms, self._wall_ms),
            saves_ms=round(ms, 6),
            where=where,
            sentence=sentence,
            advice=advice,
            key=_key(self._rule, where),
        )


def _key(rule: str, where: Place) -> str:
    kernel = None if where.kernel is None else function_name(where.kernel)
    rank = None if where.rank is None else f"rank {where.rank}"
    return "|".join([rule, *(one for one in (where.span, where.operator, kernel, where.file, rank) if one)])


def with_distinct_keys(findings: list[Finding]) -> list[Finding]:
    """Return the findings with a number at the end of every key that an earlier one has."""
    count: defaultdict[str, int] = defaultdict(int)
    found: list[Finding] = []
    for finding in findings:
        count[finding.key] += 1
        number = count[finding.key]
        found.append(finding if number == 1 else msgspec.structs.replace(finding, key=f"{finding.key}#{number}"))
    return found


def per_step(judged: JudgedTrace, total_ms: float) -> str:
    """Return a total with its mean per step: `480.0 ms (120.0 ms per step)`; only the total for up to one step."""
    steps = judged.steps.rank_steps
    return duration(total_ms) + (f" ({duration(total_ms / steps)} per step)" if steps > 1 else "")


def place_of(idle: IdlePlace) -> Place:
    """Return the place of idle time as findings have it."""
    is_operator = idle.cause == "operators" or (idle.cause in _CALLS and not (idle.operator or idle.file))
    if idle.cause == "data_loading":
        is_operator = idle.name not in (idle.span, idle.file)
    operator = idle.name if is_operator else idle.operator
    return Place(span=None if idle.span == NO_SPAN else idle.span, operator=operator or None, file=idle.file)


def described(idle: IdlePlace) -> str:
    """Return what the host was doing: `aten::copy_ in roseinfer.schedule`, or `plain Python outside all spans`."""
    name = idle.file or idle.name or "plain Python"
    return f"{name} {in_span(idle.span)}" if name != idle.span else name
