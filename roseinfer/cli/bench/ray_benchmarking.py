"""A call of `bench --ray`: the workload on the actors of a Ray cluster, against one actor.

Imports torch and Ray: only the command imports this module, when it runs.
"""

import time
from contextlib import closing
from functools import partial

from rich.console import Console

from roseinfer.cli import console
from roseinfer.cli.bench.bench_call import BenchCall
from roseinfer.cli.bench.result_tables import rich_table
from roseinfer.cli.loading import find_model
from roseinfer.cli.progress_line import Progress
from roseinfer.cli.ray_session import RayProgress, ray_session
from roseinfer.config import RunConfig
from roseinfer.ray.blocks import BlockAnswer, drawn_blocks
from roseinfer.ray.job_figures import JobFigures, RayBench, job_figures, scaling_percent
from roseinfer.trace.naming import counted
from roseinfer.workload.load_plan import requests_per_pass
from roseinfer.workload.prompts import PromptForm

_COLUMNS = ("actor", "start-up s", "requests", "tokens", "tokens/s", "busy %", "waited s")


def run_ray_benchmark(call: BenchCall, address: str) -> None:
    """Measure one actor and then all of them, each with the same load per actor, and print the figures."""
    source = find_model(call.config.engine)
    begun_s = time.perf_counter()
    with ray_session(address) as progress:
        ray_startup_s = time.perf_counter() - begun_s
        from roseinfer.ray.job import plan_actors  # imports Ray

        size = requests_per_pass(call.config) * call.repeats
        plan = plan_actors(call.config.engine, call.actors, None)
        one = _measured(call.config, 1, size, progress) if plan.actors > 1 else None
        job = _measured(call.config, plan.actors, size, progress)
    results = RayBench(
        model=source.name,
        device=plan.engine.device,
        ray_startup_s=ray_startup_s,
        job=job,
        one_actor=one,
        scaling_percent=None if one is None else scaling_percent(job, one, plan.actors),
    )
    if call.result_format == "json":
        console.print_json(results)
    else:
        _print_tables(console.stdout, results)


def _measured(config: RunConfig, actors: int, size: int, progress: RayProgress) -> JobFigures:
    """Answer `size` requests per actor, and return the figures of the job."""
    from roseinfer.ray.job import plan_actors, run_job

    plan = plan_actors(config.engine, actors, actors * size)
    progress.start_actors(actors)
    read = partial(drawn_blocks, actors * size, plan.block_size)
    done: list[BlockAnswer] = []
    line: Progress | None = None
    begun_s = time.time()
    form = PromptForm(raw=config.workload.raw)
    with closing(run_job(config, form, plan, read, warms_up=True)) as answers:
        for answer in answers:
            if not done:
                line = progress.begin(f"Measuring {counted(actors, 'actor')}")
            done.append(answer)
            if line is not None:
                line(sum(each.answers for each in done), actors * size)
    return job_figures(done, begun_s)


def _print_tables(out: Console, results: RayBench) -> None:
    job = results.job
    rows = [
        (
            each.actor,
            f"{each.startup_s:.1f}",
            f"{each.requests:,}",
            f"{each.completion_tokens:,}",
            f"{each.completion_tokens_per_s:,.1f}",
            f"{each.busy_percent:.1f}",
            f"{each.waited_s:.1f}",
        )
        for each in job.actors
    ]
    out.print(rich_table(_COLUMNS, rows, f"{results.model} on {results.device}, engines on Ray"))
    out.print(
        f"in all: {job.completion_tokens_per_s:,.1f} tokens/s, {job.requests_per_s:,.2f} requests/s over "
        f"{job.elapsed_s:.1f} s; start-up {results.ray_startup_s:.1f} s for Ray, {job.startup_s:.1f} s for the actors",
        highlight=False,
    )
    if results.one_actor is not None and results.scaling_percent is not None:
        out.print(
            f"scaling: {results.scaling_percent:.0f} % of {len(job.actors)} times one actor's "
            f"{results.one_actor.completion_tokens_per_s:,.1f} tokens/s",
            highlight=False,
        )
    if job.straggler is not None:
        out.print(f"straggler: {job.straggler} answered last, and the others waited for it", highlight=False)
    if job.refused:
        out.print(f"{job.refused} of {job.requests} requests were refused", highlight=False)
