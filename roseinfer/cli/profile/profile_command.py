"""`roseinfer profile`: run the workload under torch.profiler and show where the time went."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import RunConfig

if TYPE_CHECKING:
    from roseinfer.profiling.profile_run import ProfileResult


@configured("engine", "workload", "load", "sampling", "profile", base="default")
def profile(
    config: RunConfig,
    *,
    show_open: Annotated[bool, typer.Option("--open", help="Say how to look at the trace in Perfetto.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Record some steps of a workload with torch.profiler, into a run directory; print the top ops.

    The workload repeats, with fresh requests, until the schedule is done. The report's figures come from a pass
    without the profiler. Without --config, the shipped run `default` is profiled.
    """
    from roseinfer.cli.profile.profiled_run import record_run
    from roseinfer.profiling.run_dir import check_writable

    check_writable(Path(config.profile.profile_dir))
    result = record_run(config)
    if json:
        session = result.session
        console.print_json(
            {
                "run_dir": str(session.run_dir),
                "traces": [str(trace) for trace in session.traces],
                "report": result.report,
                "summary": session.summary,
            }
        )
    else:
        _print(result, config, show_open)


def _print(result: "ProfileResult", config: RunConfig, show_open: bool) -> None:
    from roseinfer.cli.rendering.run_report import print_run_report
    from roseinfer.cli.rendering.terminal import ops_table, print_verdict, spans_table

    session, out = result.session, console.stdout
    print_run_report(result.report)
    out.print()
    out.print(spans_table(session.summary, width=out.width))
    out.print(ops_table(session.summary, config.profile.top, config.profile.sort_by, width=out.width))
    print_verdict(out, session.summary.verdict)
    for warning in session.manifest.warnings:
        console.note(f"[profile] warning: {warning}")
    for trace in session.traces:
        out.print(f"[profile] wrote: {trace}", markup=False, highlight=False, soft_wrap=True)
    console.note(f"[profile] next: roseinfer summarize {session.run_dir}")
    if show_open:
        console.note("[profile] open https://ui.perfetto.dev, choose 'Open trace file', and take:")
        for trace in session.traces:
            console.note(f"[profile]   {trace.resolve()}")
