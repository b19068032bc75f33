"""`roseinfer bench`: how fast is it?"""

from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer
from rich.table import Table

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import Mode, RunConfig

if TYPE_CHECKING:
    from roseinfer.bench.metrics import Latency
    from roseinfer.bench.results import BenchRun


@configured("engine", "workload", "sampling", base="default", without=("mode",))
def bench(
    config: RunConfig,
    *,
    mode: Annotated[
        Literal["naive", "offline", "online", "all"] | None,
        typer.Option("--mode", help="How requests are scheduled; all: each mode in turn.", rich_help_panel="Workload"),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed passes after one warm-up pass.")] = 3,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a workload, without a profiler: throughput and latencies, over several repeats.

    Without --config, the shipped run `default` is measured.
    """
    from roseinfer.bench.protocol import measure
    from roseinfer.bench.results import BenchResults, Environment, bench_run, median_report
    from roseinfer.cli.loading import load_engine
    from roseinfer.cli.report import print_report
    from roseinfer.engine.device import device_name, num_threads
    from roseinfer.workload.provenance import ModelInfo, current_versions
    from roseinfer.workload.requests import read_prompts, to_prompts

    modes: tuple[Mode, ...] = get_args(Mode) if mode == "all" else (mode or config.workload.mode,)
    texts = read_prompts(config.workload)
    engine = load_engine(config.engine)
    prompts = to_prompts(texts, engine, raw=config.workload.raw)
    runs = []
    for each in modes:
        with console.progress(f"Measuring {each}", unit="passes") as on_progress:
            done = 0

            def after_pass() -> None:
                nonlocal done
                done += 1
                if on_progress is not None:
                    on_progress(done, repeats + 1)

            results = measure(engine, each, prompts, config.sampling, repeats=repeats, on_pass=after_pass)
        runs.append(bench_run(each, config.workload, config.sampling, config.engine.seed, results))
        if not json:
            print_report(median_report(results))
            console.stdout.print()
    if not json:
        console.stdout.print(_table(runs))
        return
    environment = Environment(
        versions=current_versions(), device=device_name(engine.runner.device), threads=num_threads()
    )
    console.print_json(
        BenchResults(environment=environment, model=ModelInfo.of(engine), engine=config.engine, runs=runs)
    )


def _table(runs: "list[BenchRun]") -> Table:
    table = Table(title="Latencies: median (p99) over requests, ms", title_justify="left")
    table.add_column("mode")
    for column in ("tokens/s", "TTFT", "TPOT", "ITL", "E2E", "decode step"):
        table.add_column(column, justify="right")
    for run in runs:
        rate = run.completion_tokens_per_s
        table.add_row(
            run.mode,
            f"{rate.mean:.1f} ± {rate.std:.1f}",
            _cell(run.ttft_ms),
            _cell(run.tpot_ms),
            _cell(run.itl_ms),
            _cell(run.e2e_ms),
            "-" if run.decode is None else f"{run.decode.median_step_ms:.2f}",
        )
    return table


def _cell(latency: "Latency | None") -> str:
    return "-" if latency is None else f"{latency.p50:.1f} ({latency.p99:.1f})"
