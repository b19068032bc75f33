"""This result against an older one: what changed, how much of that may be noise, and what is a regression."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

import msgspec

from roseinfer.bench.results import BenchResults, BenchRun, RepeatFigures
from roseinfer.errors import UsageError


class _Metric(msgspec.Struct, frozen=True):
    """What is compared, a value a repeat."""

    name: str
    of: Callable[[RepeatFigures], float | None]
    more_is_better: bool = False


_METRICS = (
    _Metric("completion tokens/s", lambda repeat: repeat.completion_tokens_per_s, more_is_better=True),
    _Metric("TTFT, ms", lambda repeat: repeat.ttft_ms),
    _Metric("TPOT, ms", lambda repeat: repeat.tpot_ms),
    _Metric("decode step, ms", lambda repeat: repeat.decode_step_ms),
)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one run, before and after: means over the repeats."""

    run: str
    metric: str
    before: float
    after: float
    change_percent: float
    """Of the older value."""
    worse_percent: float
    """The change in the direction that is worse; negative for an improvement."""
    noise_percent: float
    """Twice the standard error of the difference: smaller changes may be chance. 0 for single repeats."""

    def is_regression(self, limit_percent: float) -> bool:
        """Worse by more than the limit and by more than the noise."""
        return self.worse_percent > limit_percent and self.worse_percent > self.noise_percent


def read_baseline(path: Path) -> BenchResults:
    """An older `bench --json`. Raises UsageError for a file that is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResults)
    except OSError as error:
        raise UsageError(f"cannot read baseline {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"baseline {path} is no result of bench --json: {error}") from None


def parse_percent(text: str) -> float:
    """`5%`, or `5`. Raises UsageError for anything else."""
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent < math.inf:
        raise UsageError(f"{text!r} is no percentage: write 5%")
    return percent


def compare(baseline: BenchResults, runs: Sequence[BenchRun]) -> list[Change]:
    """The changes of all runs whose name the baseline knows too.

    Raises UsageError when there is none: nothing compared is no success.
    """
    older = {run.name: run for run in baseline.runs}
    changes = [
        change
        for run in runs
        if run.name in older
        for metric in _METRICS
        if (change := _change(metric, older[run.name], run)) is not None
    ]
    if not changes:
        raise UsageError(
            f"the baseline has no run named {', '.join(run.name for run in runs)}, only {', '.join(older)}"
        )
    return changes


def differences(baseline: BenchResults, results: BenchResults) -> list[str]:
    """What else changed between the two, so that a figure may mean something else."""
    pairs = {
        "device": (baseline.environment.device, results.environment.device),
        "model": (baseline.model.name, results.model.name),
        "dtype": (baseline.model.dtype, results.model.dtype),
        "torch": (baseline.environment.versions.torch, results.environment.versions.torch),
    }
    found = [f"{what}: {before} then, {after} now" for what, (before, after) in pairs.items() if before != after]
    older = {run.name: (run.workload, run.sampling) for run in baseline.runs}
    return found + [
        f"{run.name}: another workload"
        for run in results.runs
        if older.get(run.name, (run.workload, run.sampling)) != (run.workload, run.sampling)
    ]


def _change(metric: _Metric, before: BenchRun, after: BenchRun) -> Change | None:
    old = [value for repeat in before.per_repeat if (value := metric.of(repeat)) is not None]
    new = [value for repeat in after.per_repeat if (value := metric.of(repeat)) is not None]
    if not old or not new or mean(old) == 0:
        return None
    change = 100 * (mean(new) / mean(old) - 1)
    error = math.hypot(*(stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0 for values in (old, new)))
    return Change(
        run=after.name,
        metric=metric.name,
        before=mean(old),
        after=mean(new),
        change_percent=change,
        worse_percent=-change if metric.more_is_better else change,
        noise_percent=200 * error / mean(old),
    )
