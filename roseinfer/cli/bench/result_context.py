"""Benchmark results in words: their context in one line, and what they show in one sentence."""

from typing import TYPE_CHECKING

from roseinfer.cli.rendering.recording_context import recorded_time, version_parts

if TYPE_CHECKING:
    from roseinfer.bench.results import BenchResults, BenchRun, Change, Comparison


def context_parts(results: "BenchResults") -> list[str]:
    """Return model, device, versions and time of a benchmark."""
    environment, model, engine = results.environment, results.model, results.engine
    versions = environment.versions
    quantized = "" if engine.quantize in ("auto", "none") else f", quantized to {engine.quantize}"
    commit = f" ({versions.git_commit[:9]})" if versions.git_commit else ""
    named = [("roseinfer", versions.roseinfer + commit), ("torch", versions.torch), ("cuda", versions.cuda)]
    at = recorded_time(environment.measured_at)
    return [
        f"{model.name}, {_parameters(results)}, {model.dtype}{quantized}",
        environment.device,
        *version_parts(named),
        *([f"measured {at}"] if at else []),
    ]


def _parameters(results: "BenchResults") -> str:
    """Return the number of parameters and, of a model with experts, how many of them a token uses."""
    model = results.model
    text = f"{model.parameters / 1e6:.1f} M parameters"
    if model.active_parameters is None:
        return text
    text = f"{text}, {model.active_parameters / 1e6:.1f} M per token"
    is_counted = any(run.experts is not None for run in results.runs)
    basis = "by the counted choices of some tokens" if is_counted else "as if all were chosen equally often"
    return f"{text} (MBU counts the experts that a step is expected to use, {basis})"


def headline(results: "BenchResults") -> str:
    """Return what the results show in one sentence: the comparison if there is one, else the fastest run."""
    if results.comparison is not None:
        return _compared(results.comparison)
    if not results.runs:
        return "Nothing was measured."
    best = max(results.runs, key=lambda run: run.completion_tokens_per_s.mean)
    start = f"{best.name}: " if len(results.runs) == 1 else f"Highest throughput: {best.name}, "
    return start + ", ".join(_figures(best)) + "."


def _figures(run: "BenchRun") -> list[str]:
    rate = run.completion_tokens_per_s
    spread = "" if rate.std is None else f" ± {rate.std:,.1f}"
    latencies = [
        f"median {name} {value.p50:,.1f} ms" for name, value in (("TTFT", run.ttft_ms), ("TPOT", run.tpot_ms)) if value
    ]
    mbu = [] if run.decode is None else [f"decode steps at {run.decode.mbu_percent:.1f} % of the memory bandwidth"]
    return [f"{rate.mean:,.1f}{spread} completion tokens/s", *latencies, *mbu]


def _compared(comparison: "Comparison") -> str:
    limit = comparison.limit_percent
    if limit is not None:
        worse = [change for change in comparison.changes if change.is_regression(limit)]
        if not worse:
            return f"No regression: no figure is worse by more than {limit:g} % and its noise."
        first = max(worse, key=lambda change: change.worse_percent)
        more = f", and {len(worse) - 1} more" if len(worse) > 1 else ""
        return f"Regression: {_described(first)}, past the limit of {limit:g} %{more}."
    known = [change for change in comparison.changes if change.noise_percent is not None]
    if not known:
        return "The noise of the figures is not known: repeat each side at least twice."
    clear = [change for change in known if abs(change.change_percent) > (change.noise_percent or 0.0)]
    if not clear:
        return "No clear change: no figure changed by more than its noise."
    first = max(clear, key=lambda change: abs(change.change_percent))
    return f"{len(clear)} of {len(known)} figures changed by more than their noise; most: {_described(first)}."


def _described(change: "Change") -> str:
    return f"{change.run}: {change.metric} {change.before:,.2f} -> {change.after:,.2f} ({change.change_percent:+.1f} %)"
