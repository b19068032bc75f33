"""Latencies and rates out of request outputs and step records."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec
import numpy as np

from roseinfer.engine.request import RequestOutput
from roseinfer.workload.run import StepRecord, WorkloadResult


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution over requests (over token gaps for ITL), in milliseconds; linear between the two nearest."""

    mean: float
    p50: float
    p90: float
    p99: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A rate over the repeats; `std` is the sample standard deviation, 0 for a single repeat."""

    mean: float
    std: float
    min: float
    max: float


class DecodeSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """The steps that only decode."""

    steps: int
    median_step_ms: float
    tokens_per_s: float


class PrefillSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """The steps that only compute prompts."""

    steps: int
    tokens_per_s: float


def latency(values_s: Sequence[float]) -> Latency | None:
    """Of durations in seconds; None of none."""
    if not values_s:
        return None
    values_ms = np.asarray(values_s) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(values_ms, (50, 90, 99)))
    return Latency(mean=float(values_ms.mean()), p50=p50, p90=p90, p99=p99)


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    array = np.asarray(values)
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return Spread(mean=float(array.mean()), std=std, min=float(array.min()), max=float(array.max()))


def ttft_s(output: RequestOutput) -> list[float]:
    """Submission to first token: one value, none for an empty completion."""
    return [] if output.ttft_s is None else [output.ttft_s]


def itl_s(output: RequestOutput) -> list[float]:
    """Every gap between two consecutive tokens."""
    times = output.token_times_s
    return [after - before for before, after in pairwise(times)]


def tpot_s(output: RequestOutput) -> list[float]:
    """(E2E - TTFT) / (completion tokens - 1): one value, none for completions of one token."""
    times = output.token_times_s
    return [(times[-1] - times[0]) / (len(times) - 1)] if len(times) > 1 else []


def e2e_s(output: RequestOutput) -> list[float]:
    """Submission to last token: one value, none for an empty completion."""
    return [output.token_times_s[-1] - output.submitted_s] if output.token_times_s else []


def decode_speed(results: Sequence[WorkloadResult]) -> DecodeSpeed | None:
    """Over the pure decode steps of all repeats; `steps` counts those of one repeat."""
    steps = _steps(results, "decode")
    if not steps:
        return None
    return DecodeSpeed(
        steps=len(_steps(results[:1], "decode")),
        median_step_ms=median(step.wall_ms for step in steps),
        tokens_per_s=_tokens_per_s(steps),
    )


def prefill_speed(results: Sequence[WorkloadResult]) -> PrefillSpeed | None:
    """Over the pure prefill steps of all repeats; `steps` counts those of one repeat."""
    steps = _steps(results, "prefill")
    if not steps:
        return None
    return PrefillSpeed(steps=len(_steps(results[:1], "prefill")), tokens_per_s=_tokens_per_s(steps))


def _steps(results: Sequence[WorkloadResult], phase: str) -> list[StepRecord]:
    return [step for result in results for step in result.steps if step.phase == phase]


def _tokens_per_s(steps: Sequence[StepRecord]) -> float:
    return sum(step.tokens for step in steps) / sum(step.wall_ms for step in steps) * 1e3
