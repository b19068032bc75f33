"""Service-level objectives: which requests were fast enough."""

import re
from collections.abc import Sequence

import msgspec

from roseinfer.bench.request_figures import RequestFigures
from roseinfer.errors import UsageError

_METRICS = ("ttft", "tpot", "e2e")
_SECONDS = {"ms": 1e-3, "s": 1.0}


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that a request meets when it meets all that are set; None sets none."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    share_percent: float = 90.0
    """Of the requests that must meet them, for a search to call the objective met."""

    def is_met_by(self, figures: RequestFigures) -> bool:
        """An empty completion, or an aborted one, meets nothing; one of a single token has no TPOT to miss."""
        if figures.finish_reason == "abort" or not figures.token_times_s:
            return False
        measured = {"ttft": figures.ttft_s, "tpot": figures.tpot_s, "e2e": figures.e2e_s}
        for name, value_s in measured.items():
            limit_ms: float | None = getattr(self, f"{name}_ms")
            if limit_ms is not None and value_s is not None and value_s * 1e3 > limit_ms:
                return False
        return True

    def __str__(self) -> str:
        limits = [f"{name}={limit:g}ms" for name in _METRICS if (limit := getattr(self, f"{name}_ms")) is not None]
        return ",".join([*limits, f"share={self.share_percent:g}%"])


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that met the objective."""

    slo: Slo
    met_percent: float
    requests_per_s: float
    """Those that met it, over the time of the passes."""


def parse_slo(text: str) -> Slo:
    """`ttft=200ms,tpot=20ms`, of ttft, tpot and e2e; `share=95%` says how many requests a search asks for.

    Raises UsageError for anything else.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        unit = r"%" if name == "share" else r"ms|s"
        match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({unit})", value)
        if match is None or name not in (*_METRICS, "share"):
            raise UsageError(f"objective {part.strip()!r} is unknown: write limits like ttft=200ms,tpot=20ms,share=90%")
        if name == "share":
            limits["share_percent"] = float(match[1])
        else:
            limits[f"{name}_ms"] = float(match[1]) * _SECONDS[match[2]] * 1e3
    if limits.get("share_percent", 90.0) > 100 or not limits.keys() - {"share_percent"}:
        raise UsageError(f"objective {text!r} sets no limit: write limits like ttft=200ms,tpot=20ms,share=90%")
    return Slo(**limits)


def goodput(slo: Slo, figures: Sequence[RequestFigures], elapsed_s: float) -> Goodput:
    """Over all repeats, whose time is `elapsed_s` together."""
    met = sum(slo.is_met_by(each) for each in figures)
    return Goodput(slo=slo, met_percent=100 * met / max(len(figures), 1), requests_per_s=met / elapsed_s)
