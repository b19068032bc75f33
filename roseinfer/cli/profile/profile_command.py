"""`roseinfer profile`: run the workload under torch.profiler and show where the time goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.cli.ray_options import Actors, Ray, check_actors, check_offline
from roseinfer.config import RunConfig
from roseinfer.errors import RoseinferError, UsageError

if TYPE_CHECKING:
    from roseinfer.profiling.session import SessionResult
    from roseinfer.workload.pass_report import Report


EXAMPLES = (
    ("Profile the shipped config, then explain it", "roseinfer profile\n  roseinfer summarize profiles/latest"),
    (
        "Record eight decode steps at the largest batch",
        "roseinfer profile --phase steady --active 8",
    ),
    (
        "Compare the reference attention with the paged one",
        "roseinfer profile --attention gather --profile-dir profiles/gather\n  roseinfer profile\n"
        "  roseinfer summarize profiles/latest --baseline profiles/gather/latest",
    ),
)


@configured("engine", "workload", "load", "sampling", "profile", base="default")
def profile(
    config: RunConfig,
    *,
    ray: Ray = None,
    actors: Actors = None,
    open_browser: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Open the first trace in Perfetto, in this machine's browser; nothing is uploaded.",
            rich_help_panel="Output",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record some steps of a workload with torch.profiler into a run directory, and print the top operators.

    The workload repeats with fresh requests until the schedule is done. The throughput figures come from a pass
    without the profiler. Without --config, profile runs the shipped config `default`.

    With --ray, engines on a Ray cluster run the workload, and the one that computes its middle is recorded meanwhile.
    """
    check_actors(ray, actors)
    if ray is not None:
        check_offline(config, "profile")
        if not config.profile.loop:
            raise UsageError("--no-loop is for one engine: a job on Ray ends by itself: drop it")
    if open_browser:
        from roseinfer.cli.profile.perfetto import check_browser

        check_browser()
    with console.progress("Importing torch", ticks=True):
        from roseinfer.profiling.run_dir import check_writable
    check_writable(Path(config.profile.profile_dir))
    report: Report | None = None
    if ray is not None:
        from roseinfer.cli.profile.ray_profile import record_actor

        session = record_actor(config, ray, actors)
    else:
        from roseinfer.cli.profile.profiled_run import record_run

        result = record_run(config)
        session, report = result.session, result.report
    if json:
        _print_json(session, report)
    else:
        _print_tables(session, report, config)
    if session.unwritten is not None:
        raise RoseinferError(session.unwritten)
    if open_browser and session.traces:
        from roseinfer.cli.profile.perfetto import open_trace

        open_trace(session.traces[0])


def _print_json(session: "SessionResult", report: "Report | None") -> None:
    console.print_json(
        {
            "run_dir": str(session.run_dir),
            "traces": [str(trace) for trace in session.traces],
            "report": report,
            "summary": session.summary,
        }
    )


def _print_tables(session: "SessionResult", report: "Report | None", config: RunConfig) -> None:
    from roseinfer.cli.rendering.run_report import print_run_report
    from roseinfer.cli.rendering.terminal import budget_tables, ops_table, print_verdict, spans_table

    out = console.stdout
    if report is not None:
        print_run_report(report)
        out.print()
    for table in budget_tables(session.summary, width=out.width):
        out.print(table)
        out.print()
    out.print(spans_table(session.summary, width=out.width))
    out.print()
    out.print(ops_table(session.summary, config.profile.top, config.profile.sort_by, width=out.width))
    out.print()
    print_verdict(out, session.summary.verdict)
    for warning in session.manifest.warnings:
        console.note(f"[profile] warning: {warning}")
    for trace in session.traces:
        out.print(f"[profile] wrote: {trace}", markup=False, highlight=False, soft_wrap=True)
    console.note(f"[profile] next: roseinfer summarize {session.run_dir}")
