"""Printing the results of a benchmark."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from roseinfer.cli import console
from roseinfer.cli.bench.result_csv import csv_text
from roseinfer.cli.bench.result_markdown import bench_markdown
from roseinfer.cli.bench.result_tables import (
    CHANGE_COLUMNS,
    LEFT_COLUMNS,
    RUN_COLUMNS,
    RUN_TITLE,
    SPEED_COLUMNS,
    change_rows,
    is_change_for_the_worse,
    rich_table,
    run_rows,
    speed_rows,
)
from roseinfer.cli.rendering.recording_context import typed_command
from roseinfer.cli.rendering.run_report import print_run_report

if TYPE_CHECKING:
    from roseinfer.bench.cell_measurement import Measured
    from roseinfer.bench.results import BenchResults, BenchRun, Comparison, Search


def print_results(results: "BenchResults", measured: "Sequence[Measured]", result_format: str, *, grid: bool) -> None:
    """Print results on stdout in one of the formats of `bench`; a grid also as a table like llama-bench's."""
    if result_format == "csv":
        for run in results.runs:
            if run.host is not None and (disturbance := run.host.disturbance) is not None:
                console.note(f"[bench] {run.name}: the machine was not this run's alone: {disturbance}")
    if result_format != "table":
        for run in results.runs:
            if run.search is not None and run.search.load_too_short:
                console.note(f"[bench] {_search_remark(run, run.search)}")
    if result_format == "json":
        console.print_json(results)
    elif result_format == "jsonl":
        for run in results.runs:
            shared = {"environment": results.environment, "model": results.model, "engine": results.engine}
            _print(msgspec.json.encode({"schema_version": results.schema_version, **shared, "run": run}).decode())
    elif result_format == "csv":
        _print(csv_text(results).rstrip("\n"))
    elif result_format == "md":
        _print(bench_markdown(results, [line for run in results.runs for line in remarks(run)], grid, typed_command()))
    else:
        _print_tables(results, measured, grid)


def print_comparison(comparison: "Comparison", *, to_stderr: bool) -> None:
    """Print the differences from the baseline's settings, and the change of each figure."""
    out = console.stderr if to_stderr else console.stdout
    for difference in comparison.differences:
        _print(f"Not the same as the baseline: {difference}", out)
    rows = change_rows(comparison.changes, comparison.limit_percent)
    colours = {True: "red", False: "green", None: ""}
    styles = [colours[is_change_for_the_worse(change)] for change in comparison.changes]
    out.print(rich_table(CHANGE_COLUMNS, rows, "Against the baseline", left=2, styles=styles))
    if any(change.noise_percent is None for change in comparison.changes):
        _print("The noise of one repeat is not known, so any change may be chance: give --repeats 3 or more", out)


def _print_tables(results: "BenchResults", measured: "Sequence[Measured]", grid: bool) -> None:
    from roseinfer.bench.results import median_report

    if grid:
        console.stdout.print(rich_table(SPEED_COLUMNS, speed_rows(results), left=LEFT_COLUMNS))
        console.stdout.print()
    else:
        for each in measured:
            if len(each.results) > 1:
                _print(f"Of {len(each.results)} repeats, the one with the median time:")
            print_run_report(median_report(each.results))
            console.stdout.print()
    console.stdout.print(rich_table(RUN_COLUMNS, run_rows(results.runs), RUN_TITLE))
    for run in results.runs:
        for line in remarks(run):
            _print(line)


def remarks(run: "BenchRun") -> list[str]:
    """Return notes on the figures: engines, search, goodput, preemptions, experts, outliers."""
    remarks = []
    if (several := run.data_parallel) is not None:
        alone = f"{several.alone.mean:.0f} completion tokens/s"
        remarks.append(f"{run.name}: {several.engines} engines, {several.speedup:.2f} times one engine with {alone}")
    if run.search is not None:
        remarks.append(_search_remark(run, run.search))
    if run.goodput is not None:
        met = f"{run.goodput.met_percent:.1f} % of requests met {run.goodput.slo}"
        remarks.append(f"{run.name}: goodput {run.goodput.requests_per_s:.2f} requests/s, {met}")
    if run.preemptions:
        remarks.append(f"{run.name}: {run.preemptions} preemptions: raise --kv-cache-memory or lower --max-batch-size")
    if run.experts is not None:
        balance = (
            f"a layer's busiest has {run.experts.busiest:.1f} times the mean, {run.experts.unused_percent:.1f} % none"
        )
        remarks.append(f"{run.name}: choices of experts by {run.experts.tokens} tokens: {balance}")
    if run.host is not None and (disturbance := run.host.disturbance) is not None:
        remarks.append(f"{run.name}: the machine was not this run's alone: {disturbance}")
    if run.outliers:
        which = ", ".join(str(repeat + 1) for repeat in run.outliers)
        remarks.append(f"{run.name}: repeat {which} of {run.repeats} is an outlier: other work may have run too")
    return remarks


def _search_remark(run: "BenchRun", search: "Search") -> str:
    """Return the result of a search as one line."""
    from roseinfer.bench.numbers import plain

    assert run.goodput is not None
    slo, found = run.goodput.slo, plain(search.found, 4)
    option = f"--{search.parameter.replace('_', '-')}"
    served = ""
    if search.parameter == "request_rate" and run.requests_per_s is not None:
        served = f" (about {plain(run.requests_per_s.mean, 3)} requests/s are served)"
    if not search.load_too_short:
        return f"Largest {option} that meets {slo}: {found}{served}"
    return (
        f"No limit found: {slo} is met at {found} requests/s{served}, but {run.requests} requests are "
        "too short a load to find a limit: raise --num-requests"
    )


def _print(text: str, out: Console | None = None) -> None:
    (out or console.stdout).print(text, markup=False, highlight=False, soft_wrap=True)
