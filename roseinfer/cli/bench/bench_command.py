"""`roseinfer bench`: how fast is it?"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
import typer

from roseinfer.cli import console
from roseinfer.cli.bench.result_plot import check_plot, draw_plot
from roseinfer.cli.bench.value_lists import listed, positive_int, rate, whole_number
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import Mode, RunConfig
from roseinfer.errors import UsageError

if TYPE_CHECKING:
    from roseinfer.bench.cell_measurement import Measured
    from roseinfer.bench.grid import Cell
    from roseinfer.bench.results import BenchResults, Search, Trial
    from roseinfer.bench.slo import Slo
    from roseinfer.bench.slo_search import Parameter
    from roseinfer.engine.engine import Engine

_FORMATS = ("table", "md", "csv", "json", "jsonl")

_AXES = ("mode", "max_batch_size", "prompt_length", "max_new_tokens", "request_rate")
"""Config keys that this command takes several values of."""

_EXIT_REGRESSION = 3
_EXIT_INTERRUPTED = 130


def _axis(name: str, about: str) -> Any:
    return typer.Option(name, metavar="N[,N...]", help=about, rich_help_panel="Grid")


@configured(
    "engine",
    "workload",
    "load",
    "sampling",
    base="default",
    without=_AXES,
    defaults={"sampling": {"stop_on_eos": False}},
)
def bench(
    config: RunConfig,
    *,
    mode: Annotated[
        Literal["naive", "offline", "online", "all"] | None,
        typer.Option("--mode", help="How requests are scheduled; all: each mode in turn.", rich_help_panel="Workload"),
    ] = None,
    max_batch_size: Annotated[str | None, _axis("--max-batch-size", "Most requests a step.")] = None,
    prompt_length: Annotated[str | None, _axis("--prompt-length", "Draw prompts of so many ids; or 100..1024.")] = None,
    max_new_tokens: Annotated[str | None, _axis("--max-new-tokens", "Most tokens of a completion.")] = None,
    request_rate: Annotated[
        str | None, _axis("--request-rate", "Requests that arrive per second; unset or inf: all at once.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed passes after one warm-up pass.")] = 3,
    slo: Annotated[
        str | None, typer.Option("--slo", metavar="LIMITS", help="Count requests within ttft=200ms,tpot=20ms.")
    ] = None,
    find_max_batch: Annotated[
        bool,
        typer.Option("--find-max-batch", help="Find the largest --max-batch-size, up to its own, that meets --slo."),
    ] = False,
    find_max_rate: Annotated[
        bool, typer.Option("--find-max-rate", help="Find the largest request rate that meets --slo.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Compare with an older bench --json.")
    ] = None,
    fail_above: Annotated[
        str | None, typer.Option("--fail-above", metavar="PERCENT", help="Exit 3 when --baseline was better by more.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="|".join(_FORMATS), help="How results are printed; default: table."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw throughput and latency (.svg, .png).")
    ] = None,
    save_requests: Annotated[
        Path | None, typer.Option("--save-requests", metavar="FILE", help="Write every request's times as JSON lines.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Measure a workload, without a profiler: throughput and latencies, over several repeats.

    Options of the panel Grid take several values, and every combination is measured. EOS is ignored unless
    --stop-on-eos or a config says otherwise. Without --config, the shipped run `default` is measured.
    """
    started_s = time.perf_counter()
    output = _format(output, json)
    parameter = _searched(find_max_batch, find_max_rate, slo, mode)
    if find_max_rate and request_rate is not None:
        raise UsageError("--find-max-rate tries rates of its own: leave --request-rate out")
    limit_percent, older = _baseline(baseline, fail_above)
    if parameter is not None and limit_percent is not None:
        raise UsageError("--fail-above compares runs of one load, and a search finds its own: leave one out")
    if plot is not None:
        check_plot(plot)
    from roseinfer.bench.grid import Axes, cells
    from roseinfer.bench.slo import parse_slo
    from roseinfer.cli.bench.result_output import print_comparison, print_results

    axes = Axes(
        modes=get_args(Mode) if mode == "all" else [mode] if mode is not None else [],
        max_batch_sizes=listed("--max-batch-size", max_batch_size, positive_int, "whole numbers"),
        prompt_lengths=listed("--prompt-length", prompt_length, str, "lengths"),
        max_new_tokens=listed("--max-new-tokens", max_new_tokens, whole_number, "whole numbers"),
        request_rates=listed("--request-rate", request_rate, rate, "numbers"),
    )
    objective = None if slo is None else parse_slo(slo)
    to_measure = cells(config, axes)
    if parameter is not None and len(to_measure) > 1:
        raise UsageError("a search starts from one configuration: give one value of each option")
    if older is not None:
        from roseinfer.bench.baseline_comparison import check_names

        check_names(older, to_measure)
    judge = older if limit_percent is not None else None
    measured, results, interrupted = _measure(config, to_measure, repeats, objective, parameter, judge, started_s)
    if baseline is not None and older is not None and not interrupted:
        from roseinfer.bench.baseline_comparison import comparison

        results = msgspec.structs.replace(results, comparison=comparison(baseline, older, results, limit_percent))
    if save_requests is not None:
        from roseinfer.bench.request_figures import save_requests as save

        save(save_requests, [(each.name, each.figures) for each in measured])
    if plot is not None:
        draw_plot(plot, results.runs)
    print_results(results, measured, output, grid=axes.is_grid)
    if interrupted:
        console.print_error(f"interrupted after {len(measured)} of {len(to_measure)} configurations")
        return _EXIT_INTERRUPTED
    if results.comparison is None:
        return 0
    print_comparison(results.comparison, to_stderr=output != "table")
    return _EXIT_REGRESSION if results.comparison.regressed else 0


def _format(output: str | None, json: bool) -> str:
    """How results are printed."""
    if output is not None and output not in _FORMATS:
        raise UsageError(
            f"-o {output}: --output takes a format, one of {', '.join(_FORMATS)}; "
            "results go to stdout: write them to a file with > FILE"
        )
    if json and output not in (None, "json"):
        raise UsageError(f"--json and --output {output} are two formats: choose one")
    return "json" if json else output or "table"


def _searched(batch: bool, rate: bool, slo: str | None, mode: str | None) -> "Parameter | None":
    """What to search for, if anything."""
    if batch and rate:
        raise UsageError("--find-max-batch and --find-max-rate are two searches: choose one")
    if not batch and not rate:
        return None
    if slo is None:
        raise UsageError("a search needs an objective to meet: give --slo ttft=200ms,tpot=20ms")
    if mode == "all":
        raise UsageError("a search runs in one mode: give --mode online or --mode offline")
    return "max_batch_size" if batch else "request_rate"


def _baseline(path: Path | None, fail_above: str | None) -> "tuple[float | None, BenchResults | None]":
    if path is None:
        if fail_above is not None:
            raise UsageError("--fail-above needs a --baseline to compare with")
        return None, None
    from roseinfer.bench.baseline_comparison import parse_percent, read_baseline

    return None if fail_above is None else parse_percent(fail_above), read_baseline(path)


def _note_trial(trial: "Trial") -> None:
    from roseinfer.bench.numbers import plain

    served = "" if trial.requests_per_s is None else f", {plain(trial.requests_per_s, 3)} requests/s were served"
    met = f"{trial.met_percent:.0f} % of the requests met the objective"
    console.note(f"[bench] tried {plain(trial.value, 4)}: {met}{served}")


def _measure(
    config: RunConfig,
    to_measure: "list[Cell]",
    repeats: int,
    slo: "Slo | None",
    parameter: "Parameter | None",
    judge: "BenchResults | None",
    started_s: float,
) -> "tuple[list[Measured], BenchResults, bool]":
    """Load one engine that is large enough for all, and measure each configuration on it.

    Raises UsageError before the first pass for a baseline, `judge`, that these cannot be held against.
    The last of the three says that Ctrl-C came, after at least one configuration was measured.
    """
    from roseinfer.bench.baseline_comparison import check_comparable
    from roseinfer.bench.cell_measurement import measure_cell
    from roseinfer.bench.results import BenchResults, BenchRun, Environment, bench_run
    from roseinfer.bench.slo_search import find_largest
    from roseinfer.cli.loading import load_engine
    from roseinfer.costs.ceilings import Ceilings, ceilings
    from roseinfer.engine.device import device_name, num_threads
    from roseinfer.workload.provenance import ModelInfo, current_versions

    largest = max(cell.max_batch_size for cell in to_measure)
    engine: Engine = load_engine(msgspec.structs.replace(config.engine, max_batch_size=largest))
    startup_s = time.perf_counter() - started_s
    if judge is not None:
        check_comparable(judge, ModelInfo.of(engine), to_measure)
    limits = ceilings(engine.runner.device, engine.runner.cache.data.dtype)
    measured: list[Measured] = []
    searches: list[Search | None] = []
    interrupted = False
    for cell in to_measure:
        try:
            search = None
            if parameter is not None and slo is not None:
                cell, search = find_largest(engine, cell, parameter, slo, on_trial=_note_trial)
            with console.progress(f"Measuring {cell.name}", unit="passes") as on_progress:
                measured.append(measure_cell(engine, cell, repeats=repeats, on_progress=on_progress))
        except KeyboardInterrupt:
            if not measured:
                raise
            interrupted = True
            break
        searches.append(search)

    def judged(limits: Ceilings) -> list[BenchRun]:
        return [
            bench_run(each, limits, startup_s=startup_s, slo=slo, search=search)
            for each, search in zip(measured, searches, strict=True)
        ]

    runs = judged(limits)
    if any(run.is_beyond_ceilings for run in runs):
        # They were measured while the device had something else to do.
        limits = ceilings(engine.runner.device, engine.runner.cache.data.dtype, fresh=True)
        runs = judged(limits)
    environment = Environment(
        versions=current_versions(),
        device=device_name(engine.runner.device),
        threads=num_threads(),
        ceilings=limits,
    )
    results = BenchResults(environment=environment, model=ModelInfo.of(engine), engine=engine.config, runs=runs)
    return measured, results, interrupted
