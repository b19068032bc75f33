"""`roseinfer profile`: run the workload under torch.profiler and show where the time goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import RunConfig
from roseinfer.errors import RoseinferError

if TYPE_CHECKING:
    from roseinfer.profiling.profile_run import ProfileResult


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
    """
    if open_browser:
        from roseinfer.cli.profile.perfetto import check_browser

        check_browser()
    with console.progress("Importing torch", ticks=True):
        from roseinfer.cli.profile.profiled_run import record_run
        from roseinfer.profiling.run_dir import check_writable
    check_writable(Path(config.profile.profile_dir))
    result = record_run(config)
    if json:
        _print_json(result)
    else:
        _print_tables(result, config)
    if result.session.unwritten is not None:
        raise RoseinferError(result.session.unwritten)
    if open_browser and result.session.traces:
        from roseinfer.cli.profile.perfetto import open_trace

        open_trace(result.session.traces[0])


def _print_json(result: "ProfileResult") -> None:
    session = result.session
    console.print_json(
        {
            "run_dir": str(session.run_dir),
            "traces": [str(trace) for trace in session.traces],
            "report": result.report,
            "summary": session.summary,
        }
    )


def _print_tables(result: "ProfileResult", config: RunConfig) -> None:
    from roseinfer.cli.rendering.run_report import print_run_report
    from roseinfer.cli.rendering.terminal import budget_tables, ops_table, print_verdict, spans_table

    session, out = result.session, console.stdout
    print_run_report(result.report)
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
