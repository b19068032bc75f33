"""Service-level objectives (SLO): latency limits, and the share of requests that meet them."""

import re
from collections.abc import Sequence
from statistics import median

import msgspec

from roseinfer.bench.numbers import plain
from roseinfer.bench.request_figures import RequestFigures
from roseinfer.errors import UsageError

_METRICS = ("ttft", "tpot", "e2e")
_SECONDS = {"ms": 1e-3, "s": 1.0}


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """Latency limits of a request. A request meets the objective if it meets every limit that is not None."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    share_percent: float = 90.0
    """Percentage of requests that must meet the limits for a search to count the objective as met."""

    def is_met_by(self, figures: RequestFigures) -> bool:
        """True if the completion meets every limit.

        An empty or aborted completion never does. A completion of one token has no TPOT, so it meets any TPOT limit.
        """
        if figures.finish_reason == "abort" or not figures.token_times_s:
            return False
        for name, limit_ms in self.limits_ms.items():
            value_ms = _measured_ms(name, figures)
            if value_ms is not None and value_ms > limit_ms:
                return False
        return True

    @property
    def limits_ms(self) -> dict[str, float]:
        """Limits that are not None, in ms, by their names in `--slo`: ttft, tpot, e2e."""
        return {name: limit for name in _METRICS if (limit := getattr(self, f"{name}_ms")) is not None}

    def medians(self, figures: Sequence[RequestFigures]) -> str:
        """Describe the measured median of each limited latency: `median TTFT 7.31 ms`."""
        parts = []
        for name in self.limits_ms:
            values = [value for each in figures if (value := _measured_ms(name, each)) is not None]
            parts.append(f"median {name.upper()} {plain(median(values), 3)} ms" if values else f"no {name.upper()}")
        return ", ".join(parts)

    def __str__(self) -> str:
        limits = [f"{name}={plain(limit)}ms" for name, limit in self.limits_ms.items()]
        return ",".join([*limits, f"share={plain(self.share_percent)}%"])


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Share and rate of the requests that met an objective."""

    slo: Slo
    met_percent: float
    requests_per_s: float
    """Requests that met the objective, per second of the passes' time."""


def _measured_ms(name: str, figures: RequestFigures) -> float | None:
    value_s: float | None = getattr(figures, f"{name}_s")
    return None if value_s is None else value_s * 1e3


def parse_slo(text: str) -> Slo:
    """Parse an objective such as `ttft=200ms,tpot=20ms,share=95%`.

    Limits are ttft, tpot and e2e, in ms or s. `share` is the percentage of requests that a search requires to meet
    them. Raises UsageError for anything else.
    """
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        unit = r"%" if name == "share" else r"ms|s"
        match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({unit})", value)
        if name in _METRICS and re.fullmatch(r"\d+(?:\.\d+)?", value):
            raise UsageError(f"--slo limit {part.strip()!r} has no unit: give {name}={value}ms or {name}={value}s")
        if match is None or name not in (*_METRICS, "share"):
            raise UsageError(
                f"invalid --slo limit {part.strip()!r}: give limits such as ttft=200ms,tpot=20ms,share=90%"
            )
        if name == "share":
            limits["share_percent"] = float(match[1])
        else:
            limits[f"{name}_ms"] = float(match[1]) * _SECONDS[match[2]] * 1e3
    if limits.get("share_percent", 90.0) > 100 or not limits.keys() - {"share_percent"}:
        raise UsageError(f"--slo {text!r} sets no valid limit: give limits such as ttft=200ms,tpot=20ms,share=90%")
    return Slo(**limits)


def goodput(slo: Slo, figures: Sequence[RequestFigures], elapsed_s: float) -> Goodput:
    """Return the goodput of all repeats, which took `elapsed_s` in total.

    A request with several completions meets the objective only if all of them do.
    """
    requests: dict[tuple[int, int], bool] = {}
    for each in figures:
        key = (each.repeat, each.request_id)
        requests[key] = requests.get(key, True) and slo.is_met_by(each)
    met = sum(requests.values())
    return Goodput(slo=slo, met_percent=100 * met / max(len(requests), 1), requests_per_s=met / elapsed_s)
