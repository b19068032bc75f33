"""`roseinfer profile`: run the workload under torch.profiler and show where the time went."""

from pathlib import Path

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet, configured
from roseinfer.config import RunConfig


@configured("engine", "workload", "sampling", "profile", base="default")
def profile(config: RunConfig, *, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Record some steps of a workload with torch.profiler, into a run directory; print the top ops.

    The workload repeats, with fresh requests, until the schedule is done. The report's figures come from a pass
    without the profiler. Without --config, the shipped run `default` is profiled.
    """
    from roseinfer.cli.loading import load_engine
    from roseinfer.cli.report import print_report
    from roseinfer.cli.trace_tables import ops_table, spans_table
    from roseinfer.profiling.run import profile_run
    from roseinfer.profiling.run_dir import check_writable
    from roseinfer.workload.requests import read_prompts, to_prompts

    check_writable(Path(config.profile.profile_dir))
    texts = read_prompts(config.workload)
    engine = load_engine(config.engine)
    prompts = to_prompts(texts, engine, raw=config.workload.raw)
    with console.progress("Recording steps") as on_progress:
        result = profile_run(engine, prompts, config, on_progress=on_progress)
    if json:
        console.print_json(
            {
                "run_dir": str(result.run_dir),
                "traces": [str(trace) for trace in result.traces],
                "report": result.report,
                "summary": result.summary,
            }
        )
        return
    print_report(result.report)
    console.stdout.print(spans_table(result.summary))
    console.stdout.print(ops_table(result.summary, config.profile.top, config.profile.sort_by))
    for trace in result.traces:
        console.stdout.print(f"[profile] wrote: {trace}", markup=False, highlight=False, soft_wrap=True)
