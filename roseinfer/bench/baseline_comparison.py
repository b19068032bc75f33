"""Compare a benchmark result with an older one: the changes, their noise, and which of them are regressions."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

import msgspec
from msgspec.structs import replace

from roseinfer.bench.grid import Cell
from roseinfer.bench.numbers import plain
from roseinfer.bench.results import BenchResults, BenchRun, Change, Comparison, RepeatFigures
from roseinfer.config import WorkloadConfig
from roseinfer.errors import UsageError
from roseinfer.workload.load_plan import drawn_requests
from roseinfer.workload.provenance import ModelInfo


class _Metric(msgspec.Struct, frozen=True):
    """A figure to compare, such as TTFT, and how to read its value in one repeat."""

    name: str
    of: Callable[[RepeatFigures], float | None]
    more_is_better: bool = False


_METRICS = (
    _Metric("completion tokens/s", lambda repeat: repeat.completion_tokens_per_s, more_is_better=True),
    _Metric("TTFT, ms", lambda repeat: repeat.ttft_ms),
    _Metric("TPOT, ms", lambda repeat: repeat.tpot_ms),
    _Metric("decode step, ms", lambda repeat: repeat.decode_step_ms),
)

_LONG = ("prompts", "logit_bias", "stop", "stop_token_ids")
"""Settings whose values are too long to print."""


def read_baseline(path: Path) -> BenchResults:
    """Read an older result of `bench --json`. Raises UsageError for any other file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResults)
    except OSError as error:
        raise UsageError(f"cannot read --baseline {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--baseline {path} is not a result of bench --json: {error}") from None


def compare(baseline: BenchResults, runs: Sequence[BenchRun]) -> list[Change]:
    """Return the change of every figure, for each run that the baseline has under the same name.

    Raises UsageError if there is no such run: comparing nothing must not pass for success.
    """
    check_names(baseline, runs)
    older = {run.name: run for run in baseline.runs}
    return [
        change
        for run in runs
        if run.name in older
        for metric in _METRICS
        if (change := _change(metric, older[run.name], run)) is not None
    ]


def comparison(path: Path, baseline: BenchResults, results: BenchResults, limit_percent: float | None) -> Comparison:
    """Compare the figures and the settings of two results, as the `comparison` field of `bench --json`."""
    changes = compare(baseline, results.runs)
    return Comparison(
        baseline=str(path),
        differences=differences(baseline, results),
        changes=changes,
        limit_percent=limit_percent,
        regressed=limit_percent is not None and any(change.is_regression(limit_percent) for change in changes),
    )


def check_names(baseline: BenchResults, runs: Sequence[Cell | BenchRun]) -> None:
    """Raise UsageError if the baseline has none of these runs: comparing nothing must not pass for success."""
    older = [run.name for run in baseline.runs]
    if not {run.name for run in runs} & set(older):
        raise UsageError(
            f"the baseline has no run named {', '.join(run.name for run in runs)}, only {', '.join(older)}: "
            "measure one of its runs, or record a new baseline"
        )


def check_comparable(baseline: BenchResults, model: ModelInfo, cells: Sequence[Cell]) -> None:
    """Raise UsageError if the baseline measured a model of another size, or another load.

    A model of the same size under another name, or another engine setting, may be the change under test.
    """
    found = []
    if (baseline.model.architecture, baseline.model.parameters) != (model.architecture, model.parameters):
        found.append(f"model: {_described(baseline.model)} then, {_described(model)} now")
    found += _other_workloads(baseline, cells)
    if found:
        raise UsageError(
            f"the baseline measured something else: {'; '.join(found)}: record it again, or leave --fail-above out"
        )


def differences(baseline: BenchResults, results: BenchResults) -> list[str]:
    """Return a line per difference in device, versions, model, engine settings or workload."""
    old, new = baseline.environment, results.environment
    pairs: dict[str, tuple[object, object]] = {
        "device": (old.device, new.device),
        "threads": (old.threads, new.threads),
        "torch": (old.versions.torch, new.versions.torch),
        "model": (baseline.model.name, results.model.name),
        "architecture": (baseline.model.architecture, results.model.architecture),
        "parameters": (baseline.model.parameters, results.model.parameters),
        "dtype": (baseline.model.dtype, results.model.dtype),
    }
    found = _changed(pairs)
    settings = _fields(baseline.engine, results.engine)
    for listed_above in ("model", "device"):
        del settings[listed_above]
    if baseline.model.dtype != results.model.dtype:
        # `pairs` lists the loaded dtypes. If those are equal, the setting still matters: only "auto" keeps a GGUF
        # file's quantization.
        del settings["dtype"]
    del settings["max_batch_size"]  # the largest of a grid: each run has a limit of its own, compared below
    if None not in settings["max_batch_tokens"] or baseline.limits is None or results.limits is None:
        found += _changed(settings)
    else:  # of two limits, of which one follows the device, the values count
        del settings["max_batch_tokens"]
        found += _changed(settings)
        found += _changed({"max_batch_tokens": (baseline.limits.max_batch_tokens, results.limits.max_batch_tokens)})
    older = {run.name: run for run in baseline.runs}
    for run in results.runs:
        if run.name in older:
            before = older[run.name]
            found += _changed({f"{run.name}: max_batch_size": (before.max_batch_size, run.max_batch_size)})
            found += _changed({f"{run.name}: engines": (before.num_engines, run.num_engines)})
    return found + _other_workloads(baseline, results.runs)


def _other_workloads(baseline: BenchResults, runs: Sequence[Cell | BenchRun]) -> list[str]:
    older = {run.name: run for run in baseline.runs}
    found = []
    for run in runs:
        if run.name in older:
            before, after = older[run.name], run
            changed = _changed(_fields(_with_count(before), _with_count(after)))
            changed += _changed(_fields(before.sampling, after.sampling))
            if changed:
                found.append(f"{run.name}: another workload ({'; '.join(changed)})")
    return found


def _with_count(run: Cell | BenchRun) -> WorkloadConfig:
    """Return the workload with the number of requests that the run draws."""
    if run.workload.prompt_length is None or run.workload.num_requests is not None:
        return run.workload
    return replace(run.workload, num_requests=drawn_requests(run.max_batch_size))


def _fields(before: msgspec.Struct, after: msgspec.Struct) -> dict[str, tuple[object, object]]:
    return {name: (getattr(before, name), getattr(after, name)) for name in before.__struct_fields__}


def _changed(pairs: Mapping[str, tuple[object, object]]) -> list[str]:
    """Return a line per pair {name: (before, after)} that differs.

    Values are compared as printed, since a length may be a number or a string.
    """
    shown = {what: (_shown(before), _shown(after)) for what, (before, after) in pairs.items()}
    return [
        f"other {what}" if what in _LONG else f"{what}: {before} then, {after} now"
        for what, (before, after) in shown.items()
        if before != after
    ]


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "on" if value else "off"
    return plain(value) if isinstance(value, float) else str(value)


def _described(model: ModelInfo) -> str:
    return f"{model.name} ({model.architecture}, {model.parameters / 1e6:.1f} M parameters)"


def _change(metric: _Metric, before: BenchRun, after: BenchRun) -> Change | None:
    old = [value for repeat in before.per_repeat if (value := metric.of(repeat)) is not None]
    new = [value for repeat in after.per_repeat if (value := metric.of(repeat)) is not None]
    if not old or not new or mean(old) == 0:
        return None
    change = 100 * (mean(new) / mean(old) - 1)
    has_noise = min(len(old), len(new)) > 1
    error = math.hypot(*(stdev(values) / len(values) ** 0.5 for values in (old, new))) if has_noise else None
    return Change(
        run=after.name,
        metric=metric.name,
        before=mean(old),
        after=mean(new),
        change_percent=change,
        worse_percent=-change if metric.more_is_better else change,
        noise_percent=None if error is None else 200 * error / mean(old),
    )
