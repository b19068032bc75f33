"""Latencies and rates, computed from request figures and step records."""

from collections.abc import Iterable, Sequence
from statistics import median

import msgspec
import numpy as np

from roseinfer.bench.request_figures import RequestFigures
from roseinfer.costs.ceilings import Ceilings
from roseinfer.engine.step_plan import Phase
from roseinfer.workload.load_runner import WorkloadResult
from roseinfer.workload.step_record import StepRecord


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of a latency in milliseconds, over requests; for ITL, over the gaps between tokens.

    Percentiles are interpolated linearly between the two nearest values.
    """

    mean: float
    p50: float
    p90: float
    p99: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of a rate over the repeats. `std` is the sample standard deviation, None for a single repeat."""

    mean: float
    median: float
    std: float | None
    min: float
    max: float


class DecodeSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of the pure decode steps: steps in which no request has prompt tokens to compute."""

    steps: int
    """Pure decode steps per repeat."""
    median_step_ms: float
    """Median time of a decode step, in ms. A launch of k decode steps counts as 1/k of its time."""
    tokens_per_s: float
    mbu_percent: float
    """Bytes that the steps had to move, divided by (their time x the measured bandwidth)."""


class PrefillSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of the pure prefill steps: steps in which no request decodes."""

    steps: int
    """Pure prefill steps per repeat."""
    tokens_per_s: float
    mfu_percent: float
    """FLOPs that the steps had to compute, divided by (their time x the measured matmul rate)."""


def latency(values_s: Iterable[float | None]) -> Latency | None:
    """Return the distribution of durations given in seconds, ignoring None; None if no duration is left."""
    values_ms = np.asarray([value for value in values_s if value is not None]) * 1e3
    if not values_ms.size:
        return None
    p50, p90, p99 = (float(value) for value in np.percentile(values_ms, (50, 90, 99)))
    return Latency(mean=float(values_ms.mean()), p50=p50, p90=p90, p99=p99)


def spread(values: Sequence[float]) -> Spread:
    """Return the distribution of one or more values."""
    array = np.asarray(values)
    return Spread(
        mean=float(array.mean()),
        median=float(np.median(array)),
        std=float(array.std(ddof=1)) if len(array) > 1 else None,
        min=float(array.min()),
        max=float(array.max()),
    )


def outliers(values: Sequence[float]) -> list[int]:
    """Return the indexes of outliers: modified z-score above 3.5 (Iglewicz and Hoaglin, 1993).

    Fewer than four values have no outliers, and a value within 2 % of the median is never one.
    """
    if len(values) < 4:
        return []
    middle = median(values)
    deviations = [abs(value - middle) for value in values]
    limit = max(3.5 * median(deviations) / 0.6745, 0.02 * abs(middle))
    return [index for index, deviation in enumerate(deviations) if deviation > limit]


def ttft(figures: Iterable[RequestFigures]) -> Latency | None:
    """Return the distribution of the time to first token."""
    return latency(each.ttft_s for each in figures)


def itl(figures: Iterable[RequestFigures]) -> Latency | None:
    """Return the distribution of the inter-token latency: every gap of every request has equal weight."""
    return latency(gap for each in figures for gap in each.itl_s)


def tpot(figures: Iterable[RequestFigures]) -> Latency | None:
    """Return the distribution of the time per output token: every request has equal weight."""
    return latency(each.tpot_s for each in figures)


def e2e(figures: Iterable[RequestFigures]) -> Latency | None:
    """Return the distribution of the end-to-end latency."""
    return latency(each.e2e_s for each in figures)


def decode_speed(results: Sequence[WorkloadResult], ceilings: Ceilings) -> DecodeSpeed | None:
    """Return the speed of the pure decode steps of all repeats; None if there are none."""
    steps = steps_of(results, "decode")
    if not steps:
        return None
    return DecodeSpeed(
        steps=len(steps_of(results[:1], "decode")),
        median_step_ms=median(step.wall_ms * step.batch / step.tokens for step in steps),
        tokens_per_s=tokens_per_s(steps),
        mbu_percent=100 * sum(step.bytes for step in steps) / _seconds(steps) / ceilings.copy_bytes_per_s,
    )


def prefill_speed(results: Sequence[WorkloadResult], ceilings: Ceilings) -> PrefillSpeed | None:
    """Return the speed of the pure prefill steps of all repeats; None if there are none."""
    steps = steps_of(results, "prefill")
    if not steps:
        return None
    return PrefillSpeed(
        steps=len(steps_of(results[:1], "prefill")),
        tokens_per_s=tokens_per_s(steps),
        mfu_percent=100 * sum(step.flops for step in steps) / _seconds(steps) / ceilings.flops_per_s,
    )


def steps_of(results: Sequence[WorkloadResult], phase: Phase) -> list[StepRecord]:
    """Return the steps of one phase from all results."""
    return [step for result in results for step in result.steps if step.phase == phase]


def tokens_per_s(steps: Sequence[StepRecord]) -> float:
    """Return new tokens per second of the steps' own wall time."""
    return sum(step.tokens for step in steps) / _seconds(steps)


def _seconds(steps: Sequence[StepRecord]) -> float:
    return sum(step.wall_ms for step in steps) / 1e3
