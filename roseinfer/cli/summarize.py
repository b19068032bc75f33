"""`roseinfer summarize`: what a trace says."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json, Quiet

_PROGRESS_FROM_BYTES = 4 << 20


def summarize(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="A torch.profiler trace: .json or .json.gz.")],
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Rows of the top operators, per device.")] = 15,
    sort_by: Annotated[
        Literal["self", "total", "calls"], typer.Option("--sort-by", help="What the top operators are sorted by.")
    ] = "self",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Explain a torch.profiler trace: its steps, its spans and its top operators."""
    from roseinfer.cli.trace_tables import ops_table, spans_table, steps_table
    from roseinfer.trace import summarize_trace

    if trace.is_file() and trace.stat().st_size >= _PROGRESS_FROM_BYTES:
        with console.progress("reading", "bytes") as on_progress:
            summary = summarize_trace(trace, on_progress=on_progress)
    else:
        summary = summarize_trace(trace)
    if as_json:
        console.print_json(summary)
        return
    for doubt in summary.trust:
        console.note(f"{doubt.level}: {doubt.message}")
    out = console.stdout
    if summary.steps.count:
        out.print(steps_table(summary))
    if summary.spans:
        out.print(spans_table(summary, width=out.width))
    if summary.top_ops:
        out.print(ops_table(summary, top, sort_by, width=out.width))
