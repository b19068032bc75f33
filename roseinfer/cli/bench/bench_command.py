"""`roseinfer bench`: measure throughput and latency."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from roseinfer.cli import console
from roseinfer.cli.bench.bench_call import FORMATS, BenchCall
from roseinfer.cli.comparison_limit import FailAbove
from roseinfer.cli.completion import completes
from roseinfer.cli.config_flags import flag_help
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.cli.ray_options import Actors, Ray
from roseinfer.config import RunConfig
from roseinfer.errors import UsageError

EXAMPLES = (
    ("Measure the shipped config on the demo model", "roseinfer bench"),
    (
        "Random weights in the shape of a public model, at three batch sizes",
        "roseinfer bench --model gpt2 --load-format dummy --max-batch-size 1,4,16",
    ),
    (
        "Keep the results, change something, compare",
        "roseinfer bench --json > before.json\n  roseinfer bench --baseline before.json --fail-above 5%",
    ),
    (
        "Two engines on this machine, with Ray",
        "roseinfer bench --ray local --actors 2",
    ),
    (
        "The highest request rate at which 99 % of the requests stay within limits",
        "roseinfer bench --slo ttft=200ms,tpot=20ms --find-max-rate",
    ),
)

_AXES = ("mode", "max_batch_size", "prompt_length", "max_new_tokens", "request_rate")
"""Config keys of which this command accepts several values."""


def _axis(table: str, key: str) -> Any:
    """Declare an option of `bench` that accepts several values of a config key; other commands accept one."""
    name = f"--{key.replace('_', '-')}"
    return typer.Option(name, metavar="N[,N...]", help=flag_help(table, key), rich_help_panel="Grid")


def _refuse_output(value: str | None) -> None:
    """Refuse --output, an option of `generate` only, with a message that suggests --format."""
    if value is not None:
        raise UsageError(
            f"bench has no --output or -o: use --format, one of {', '.join(FORMATS)}; "
            "results go to stdout: write them to a file with > FILE"
        )


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
        typer.Option(
            "--mode",
            metavar="naive|offline|online|all",
            help="Scheduler: one request at a time, for throughput, for latency, or each in turn.",
            rich_help_panel="Workload",
        ),
    ] = None,
    max_batch_size: Annotated[str | None, _axis("engine", "max_batch_size")] = None,
    prompt_length: Annotated[str | None, _axis("workload", "prompt_length")] = None,
    max_new_tokens: Annotated[str | None, _axis("sampling", "max_new_tokens")] = None,
    request_rate: Annotated[str | None, _axis("workload", "request_rate")] = None,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats",
            min=1,
            metavar="N",
            help="Timed passes over the workload, after one warm-up pass.",
            rich_help_panel="Measurement",
        ),
    ] = 3,
    data_parallel: Annotated[
        int,
        typer.Option(
            "--data-parallel",
            min=1,
            metavar="N",
            help="Engines that share the load, a process and GPU each; one engine is measured too.",
            rich_help_panel="Measurement",
        ),
    ] = 1,
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo",
            metavar="LIMITS",
            help="Latency limits that a request must meet to count, such as ttft=200ms,tpot=20ms.",
            rich_help_panel="Measurement",
        ),
    ] = None,
    find_max_batch: Annotated[
        bool,
        typer.Option(
            "--find-max-batch",
            help="Search for the largest batch size that meets --slo, up to --max-batch-size.",
            rich_help_panel="Measurement",
        ),
    ] = False,
    find_max_rate: Annotated[
        bool,
        typer.Option(
            "--find-max-rate",
            help="Search for the largest request rate that meets --slo.",
            rich_help_panel="Measurement",
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="FILE",
            help="Older output of bench --json to compare with.",
            rich_help_panel="Comparison",
        ),
    ] = None,
    fail_above: FailAbove = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            autocompletion=completes(*FORMATS),
            help="Format of the results [default: table].",
            rich_help_panel="Output",
        ),
    ] = None,
    _output: Annotated[str | None, typer.Option("--output", "-o", hidden=True, callback=_refuse_output)] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="File for a plot of throughput and latency (.svg or .png).",
            rich_help_panel="Output",
        ),
    ] = None,
    save_requests: Annotated[
        Path | None,
        typer.Option(
            "--save-requests",
            metavar="FILE",
            help="File for the times of every request, as JSON lines.",
            rich_help_panel="Output",
        ),
    ] = None,
    ray: Ray = None,
    actors: Actors = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Measure throughput and latency of a workload over several repeats, without a profiler.

    Options under Grid accept several values, such as 1,4,16, and every combination is measured. Completions do not end
    at EOS unless --stop-on-eos or a config file says so. Without --config, bench measures the shipped config
    `default`.

    With --ray, engines on a Ray cluster answer the workload, --repeats times per engine: first one of them, then all.
    """
    call = BenchCall(
        config=config,
        mode=mode,
        max_batch_size=max_batch_size,
        prompt_length=prompt_length,
        max_new_tokens=max_new_tokens,
        request_rate=request_rate,
        repeats=repeats,
        data_parallel=data_parallel,
        slo=slo,
        find_max_batch=find_max_batch,
        find_max_rate=find_max_rate,
        baseline=baseline,
        fail_above=fail_above,
        format=output_format,
        json=json,
        plot=plot,
        save_requests=save_requests,
        ray=ray,
        actors=actors,
        started_s=time.perf_counter(),
    )
    call.check()
    with console.progress("Importing torch", ticks=True):
        from roseinfer.cli.bench.benchmarking import run_benchmark

    return run_benchmark(call)
